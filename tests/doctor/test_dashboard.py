"""The dashboard for Grafana: it can be imported, and each panel finds numbers."""

import json
import re
import subprocess
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest

from tests.doctor.test_metrics import needs_promtool, run
from tests.help.documents import HELP, read, topic
from tests.support.docora import Docora
from tests.support.terminal import on_terminal

DASHBOARD = json.loads(read(HELP / "grafana.json"))
PANELS = DASHBOARD["panels"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


def test_help_prints_the_dashboard_and_how_to_import_it(docora: Docora, tmp_path: Path) -> None:
    env = {"DATABASE_URL": None, "REDIS_URL": None}
    result = docora.run("help", "grafana", env=env)
    assert (result.code, result.stderr) == (0, topic("grafana"))
    assert result.stdout == read(HELP / "grafana.json")
    [line] = re.findall(r"docora-ops help grafana >docora\.json", topic("grafana"))
    assert docora.run_in_shell(f"cd {tmp_path}; {line}", env=env).code == 0
    assert json.loads(read(tmp_path / "docora.json")) == DASHBOARD
    code, shown = on_terminal(docora, ["help", "grafana"], env=env)
    assert (code, "In Grafana, choose Dashboards" in shown.partition('"panels"')[2]) == (0, True)


def test_it_has_what_an_import_needs_and_no_data_source_of_its_author() -> None:
    assert (DASHBOARD["id"], DASHBOARD["uid"]) == (None, "docora-ops")
    assert DASHBOARD["schemaVersion"] == 39
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"]
        assert [panel["datasource"], *(each["datasource"] for each in panel["targets"])] == (
            [source] * (1 + len(panel["targets"]))
        )


@pytest.mark.slow
@needs_promtool
def test_expressions_find_numbers(docora: Docora, tmp_path: Path) -> None:
    docora.link(docora.add_app("Acme Search"), docora.add_repository("octo/api"), "failed")
    docora.add_repository("octo/web", circuit_open_for=timedelta(hours=1))
    for minutes in (1, 2, 3):  # as few scans as tell how long a cycle is
        docora.add_link("synced", scanned=timedelta(minutes=minutes))
    docora.queue_job(docora.add_link())
    docora.add_worker()
    docora.redis.set("docora-ops:schedule", 1_764_380_000)
    text = docora.run("metrics", "--by-app", "--by-error").ended(0).stdout
    labels, series = defaultdict(set), []
    subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True)
    for name, its_labels, value in re.findall(r"(?m)^(\w+)(?:\{(.*)\})? (\S+)$", text):
        labels[name].update(re.findall(r'(\w+)="', its_labels))
        series.append({"series": f"{name}{{{its_labels}}}", "values": f"{value}x10"})
    looks = []
    for title, target in TARGETS:
        [name] = re.findall(r"docora_\w+", target["expr"])
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels[name], title
        found = {"eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 1}]}
        looks.append({"expr": f"group({target['expr']})", **found})
    tests = [{"interval": "1m", "input_series": series, "promql_expr_test": looks}]
    (tmp_path / "tests.yml").write_text(json.dumps({"tests": tests}), encoding="utf-8")
    run("promtool", "test", "rules", str(tmp_path / "tests.yml"))
