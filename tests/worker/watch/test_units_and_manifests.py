"""The units and manifests of the topic `recipes` are what systemd and Kubernetes take."""

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
from tests.help.documents import topic
from tests.support.docora import COMMAND

RECIPES = topic("recipes")


def units(folder: Path) -> dict[str, Path]:
    """Writes the units, with the command of these tests, which systemd looks for."""
    paths = {}
    blocks = re.findall(
        r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```", RECIPES, re.MULTILINE | re.DOTALL
    )
    for name, text in blocks:
        paths[name] = folder / name
        paths[name].write_text(text.replace("/usr/local/bin/docora-ops", str(COMMAND)))
    return paths


def manifests() -> list[dict[str, Any]]:
    blocks = re.findall(r"^```yaml\n(apiVersion: .*?)^```", RECIPES, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    found = units(tmp_path)
    assert {"docora-worker.service", "docora-schedule.service", "docora-schedule.timer"} <= set(
        found
    )
    # For the system's own manager, only root may make the folders that it expects.
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    verify = ("systemd-analyze", "--user", "verify", "--man=no", "--recursive-errors=no")
    for path in found.values():
        verified = subprocess.run(
            [*verify, str(path)], env=environment, capture_output=True, text=True, check=False
        )
        assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    for name in ("docora-worker.service", "docora-schedule.service"):
        # 10 is a service without any protection.
        limit = ["--offline=yes", "--threshold=20"]
        command = ["systemd-analyze", "security", "--no-pager", *limit, str(found[name])]
        judged = subprocess.run(command, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout


def test_a_platform_is_as_patient_as_a_worker_may_be_silent() -> None:
    assert "\nType=notify\n" in RECIPES
    assert f"\nWatchdogSec={silence_limit(Settings())}\n" in RECIPES
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
