"""The units and manifests of the topics are what systemd and Kubernetes take, and are hardened."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docora_ops.settings import Settings
from docora_ops.worker.watchdog import silence_limit
from tests.help.documents import TOPICS, topic
from tests.support.docora import COMMAND

ALL_TOPICS = "\n".join(map(topic, TOPICS))

OF_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
OF_CONTAINER = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"
)


def units(folder: Path) -> dict[str, Path]:
    """Writes the units, with the command of these tests, which systemd looks for."""
    paths = {}
    blocks = re.findall(
        r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```", ALL_TOPICS, re.MULTILINE | re.DOTALL
    )
    for name, text in blocks:
        paths[name] = folder / name
        paths[name].write_text(text.replace("/usr/local/bin/docora-ops", str(COMMAND)))
    return paths


def manifests() -> list[dict[str, Any]]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", ALL_TOPICS, re.MULTILINE | re.DOTALL)
    documents = [each for block in blocks for each in yaml.safe_load_all(block)]
    return [each for each in documents if "kind" in each]


@needs_systemd_analyze
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    found = units(tmp_path)
    assert len(found) == ALL_TOPICS.count("\n[Unit]\n") == 5
    # For the system's own manager, only root may make the folders that it expects.
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    verify = ("systemd-analyze", "--user", "verify", "--man=no", "--recursive-errors=no")
    for path in found.values():
        verified = subprocess.run(
            [*verify, str(path)], env=environment, capture_output=True, text=True, check=False
        )
        assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@needs_systemd_analyze
def test_each_service_is_exposed_to_less_than_2_of_10(tmp_path: Path) -> None:
    services = [path for path in units(tmp_path).values() if path.suffix == ".service"]
    assert len(services) == ALL_TOPICS.count("\n[Service]\n") == 3
    for path in services:
        limit = ["--offline=yes", "--threshold=19"]  # tenths
        command = ["systemd-analyze", "security", "--no-pager", *limit, str(path)]
        judged = subprocess.run(command, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout


def test_a_platform_is_as_patient_as_a_worker_may_be_silent() -> None:
    recipes = topic("recipes")
    assert "\nType=notify\n" in recipes
    assert f"\nWatchdogSec={silence_limit(Settings())}\n" in recipes
    pod = manifests()[0]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    grace = container["command"].index("--grace") + 1
    assert pod["terminationGracePeriodSeconds"] == int(container["command"][grace]) + 15


def test_the_manifests_fit_the_schemas_of_kubernetes() -> None:
    reason = "no kubernetes-validate here"  # 17,000 files of schemas
    kubernetes = pytest.importorskip("kubernetes_validate", reason=reason)
    found = manifests()
    assert [(each["kind"], each["metadata"]["name"]) for each in found] == [
        ("Deployment", "docora-worker"),
        ("CronJob", "docora-schedule"),
        ("CronJob", "docora-retry"),
    ]
    for each in found:
        for version in ("1.27", "1.37"):
            kubernetes.validate(each, version, strict=True)


def test_each_pod_has_least_privileges_limits_and_a_deadline() -> None:
    found = manifests()
    assert len(found) == ALL_TOPICS.count("\nkind: ") == 3
    for manifest in found:
        name, spec = manifest["metadata"]["name"], manifest["spec"]
        if manifest["kind"] == "CronJob":
            assert spec["startingDeadlineSeconds"] > 0, name
            assert spec["concurrencyPolicy"] == "Forbid", name
            spec = spec["jobTemplate"]["spec"]
            assert spec["activeDeadlineSeconds"] > 0, name
        else:
            assert spec["progressDeadlineSeconds"] > 0, name
        pod = spec["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"].items() >= OF_POD.items(), name
        assert min(pod["securityContext"][each] for each in ("runAsUser", "runAsGroup")) > 0, name
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert container["securityContext"] == OF_CONTAINER, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
