"""The cron line and the alert rules of the topic `metrics` do what the topic says."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.help.documents import topic
from tests.support.docora import COMMAND, Docora
from tests.support.proxy import refused_port

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: promtool)"
)
ALERTS = FAILED, NO_WORKERS, WITHOUT_JOB, WRONG_BACKEND, NOT_SEEN = (
    *("DocoraFailedLinksStay", "DocoraNoWorkers", "DocoraLinksWithoutJob"),
    *("DocoraWrongBackend", "DocoraNotSeen"),
)
CALM = {
    'docora_up{server="postgres"}': "1x100",
    'docora_up{server="redis"}': "1x100",
    'docora_links{status="failed"}': "0x100",
    'docora_queue_jobs{queue="q",status="waiting"}': "7x100",
    'docora_queue_jobs{queue="q",status="failed"}': "7x100",
    'docora_workers{state="busy"}': "1x100",
    'docora_workers{state="suspended"}': "0x100",
    "docora_backend_ok": "1x100",
    'docora_drift_links{kind="lost"}': "0x100",
    'docora_drift_links{kind="stuck"}': "0x100",
    'node_textfile_mtime_seconds{file="/var/lib/node/docora.prom"}': "0+60x100",
}
"""One value a minute, for a hundred minutes."""
QUIET: dict[int, list[str]] = {20: [], 60: [], 99: []}


def rules() -> str:
    found = re.search(r"^```yaml\n(.*?)^```$", topic("metrics"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_each_rule_is_complete_and_names_metrics_and_labels_that_there_are(docora: Docora) -> None:
    docora.add_link()
    docora.queue_job(docora.add_link("pending_snapshot"))
    text = docora.run("metrics").stdout
    alerts = rules().split("      - alert: ")[1:]
    assert tuple(alert.split()[0] for alert in alerts) == ALERTS
    for alert in alerts:
        keys = re.findall(r"^ {8}(\w+):", alert, re.MULTILINE)
        assert keys == ["expr", "for", "labels", "annotations"]
        named = re.findall(r"(docora_\w+)(?:\{(\w+)!?=\"(\w+)\"\})?", alert)
        assert named
        for name, label, value in named:
            sample = rf'^{name}{{.*{label}.*"{value}' if label else rf"^{name}[{{ ]"
            assert re.search(sample, text, re.MULTILINE), name


BUSY, SUSPENDED = 'docora_workers{state="busy"}', 'docora_workers{state="suspended"}'
FAILED_LINKS = 'docora_links{status="failed"}'
OF_REDIS = [name for name in CALM if re.match("docora_(queue|workers|drift)", name)]
NO_REDIS = {
    'docora_up{server="redis"}': "1x10 0x90",
    **dict.fromkeys(OF_REDIS, "1x10 stale"),
}
SCENARIOS: dict[str, tuple[dict[str, str], dict[int, list[str]]]] = {
    "peace": ({}, QUIET),
    "failed links stay": ({FAILED_LINKS: "3x100"}, {70: [], 99: [FAILED]}),
    "failed links drain": ({FAILED_LINKS: "300-3x100"}, QUIET),
    "no workers while jobs wait": ({BUSY: "1x10 0x90"}, {14: [], 20: [NO_WORKERS]}),
    "suspended workers": ({BUSY: "0x100", SUSPENDED: "2x100"}, {4: [], 20: [NO_WORKERS]}),
    "another backend than is set": ({"docora_backend_ok": "0x100"}, {14: [], 20: [WRONG_BACKEND]}),
    "stuck links": ({'docora_drift_links{kind="stuck"}': "2x100"}, {14: [], 20: [WITHOUT_JOB]}),
    "lost for a moment": ({'docora_drift_links{kind="lost"}': "0x10 1x10 0x80"}, QUIET),
    "Redis is down": (NO_REDIS, {11: [], 20: [NOT_SEEN]}),
    "nothing is scraped": (dict.fromkeys(CALM, "1x10 stale"), {11: [], 20: [NOT_SEEN]}),
}
"""What differs from CALM, and which alerts fire after so many minutes."""


@needs_promtool
def test_each_rule_fires_when_the_topic_says_and_not_in_peace(tmp_path: Path) -> None:
    rules_file = tmp_path / "rules.yml"
    rules_file.write_text(rules(), encoding="utf-8")
    assert "5 rules found" in run("promtool", "check", "rules", "--lint-fatal", str(rules_file))
    tests = []
    for name, (changes, firing) in SCENARIOS.items():
        series = [{"series": each, "values": values} for each, values in (CALM | changes).items()]
        looks = []
        for minute, alerts in firing.items():
            samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts]
            expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
            looks.append({"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples})
        tests.append(
            {"name": name, "interval": "1m", "input_series": series, "promql_expr_test": looks}
        )
    file = tmp_path / "tests.yml"
    # JSON is YAML, too.
    file.write_text(json.dumps({"rule_files": ["rules.yml"], "tests": tests}), encoding="utf-8")
    run("promtool", "test", "rules", str(file))


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_cron_line_keeps_each_complete_text_and_nothing_else(
    docora: Docora, tmp_path: Path
) -> None:
    docora.add_link()
    [line] = re.findall(r"^(?:\* ){5}(.*)$", topic("metrics"), re.MULTILINE)
    assert "%" not in line  # which ends the command for cron
    file = tmp_path / "docora.prom"
    for before, after in (
        ("/usr/local/bin/docora-ops", str(COMMAND)),
        (" --env-file /etc/docora/docora.env", ""),
        ("/var/lib/prometheus/node-exporter/docora.prom", str(file)),
        ("/var/log/docora-ops.log", str(tmp_path / "log")),
    ):
        assert before in line
        line = line.replace(before, after)

    def run_line(**changes: str | None) -> str:
        subprocess.run(["sh", "-c", line], env=docora.environment(**changes), check=True)
        assert {each.name for each in tmp_path.iterdir()} <= {"docora.prom", "log"}
        return file.read_text(encoding="utf-8")

    assert 'docora_up{server="redis"} 1.0' in run_line()
    down = run_line(REDIS_URL=f"redis://127.0.0.1:{refused_port()}")
    assert 'docora_up{server="redis"} 0.0' in down
    assert run_line(DATABASE_URL=None) == down
