"""`metrics`: each number where it stands, nothing of a server that is down, one valid text."""

import json
import re
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from rq.job import JobStatus
from rq.worker import WorkerStatus

from docora_ops.jobs import NoJobCode
from tests.help.documents import topic
from tests.support.docora import COMMAND, QUEUE, Docora, Result, finish
from tests.support.proxy import Fault, Proxy, refused_port
from tests.support.read_only import frozen
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN

STATUSES = ("pending_snapshot", "scanning", "synced", "failed")
JOBS = ("waiting", "active", "delayed", "completed", "failed")
WORKERS = (*(status.value for status in WorkerStatus), "unknown", "silent")
REASONS = tuple(code.value for code in NoJobCode)
OF_POSTGRES = {
    *("docora_links", "docora_circuits_open", "docora_links_overdue", "docora_nothing_moves"),
    "docora_slow_cycle_seconds",
}
OF_REDIS = {
    *("docora_queue_jobs", "docora_workers", "docora_workers_refusing", "docora_backend_ok")
}
OF_ANY = {"docora_up", "docora_scrape_seconds"}
Numbers = dict[str, dict[tuple[str, ...], float]]


def numbers(result: Result) -> Numbers:
    """The samples of the text by metric, and by the values of their labels."""
    found: Numbers = {}
    for family in text_string_to_metric_families(result.stdout):
        assert (family.type, bool(family.documentation)) == ("gauge", True)
        found[family.name] = {}
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found[family.name]
            found[family.name][labels] = sample.value
    return found


def by(names: tuple[str, ...], *before: str, **counts: int) -> dict[tuple[str, ...], float]:
    return {(*before, name): counts.get(name, 0) for name in names}


@pytest.fixture
def apps(docora: Docora) -> list[str]:
    """Two apps, and one of everything that is counted."""
    apps = [docora.add_app("Acme Search"), docora.add_app("Quiet Harbor")]
    repositories = [docora.add_repository(f"octo/{each}") for each in "abc"]
    repositories.append(docora.add_repository("octo/d", circuit_open_for=timedelta(hours=1)))
    docora.add_repository("octo/e", circuit_open_for=timedelta(hours=-1))
    for repository in repositories:
        docora.link(apps[0], repository)
    docora.link(apps[1], repositories[0])
    docora.link(apps[1], repositories[1], "synced")
    docora.link(apps[1], repositories[2], "scanning")
    docora.add_link("pending_snapshot")  # lost
    docora.queue_job(docora.add_link("pending_snapshot"))
    docora.age_links()
    docora.add_link("pending_snapshot")  # too new to be lost
    docora.start_job("running")
    docora.schedule_job("later")
    docora.leave_job("broken", JobStatus.FAILED)
    docora.leave_job("finished", JobStatus.FINISHED)
    for number, state in enumerate(("busy", "idle", "suspended", "secret-host-4 is on fire"), 1):
        docora.add_worker(f"secret-host-{number}")
        docora.redis.hset(f"rq:worker:secret-host-{number}", "state", state)
    docora.redis.sadd(f"rq:workers:{QUEUE}", "rq:worker:killed")
    return apps


def test_each_number_is_counted_where_it_stands(docora: Docora, apps: list[str]) -> None:
    with frozen(docora):
        result = docora.run("metrics", "--by-app")
    assert (result.code, result.stderr) == (0, "")
    found = numbers(result)
    [age] = found.pop("docora_queue_oldest_seconds").values()
    assert 0 <= age < 300
    [seconds] = found.pop("docora_scrape_seconds").values()
    assert 0 < seconds < 60
    assert found == {
        "docora_up": {("postgres",): 1, ("redis",): 1},
        "docora_links": by(STATUSES, pending_snapshot=3, scanning=1, synced=1, failed=5),
        "docora_failed_links": {(apps[0],): 4, (apps[1],): 1},
        "docora_circuits_open": {(): 1},
        "docora_queue_jobs": by(JOBS, QUEUE, waiting=1, active=1, delayed=1, completed=1, failed=1),
        "docora_workers": by(WORKERS, busy=1, idle=1, suspended=1, unknown=1),
        "docora_workers_refusing": by(REASONS, suspended=1),
        "docora_backend_ok": {(): 1},
        "docora_drift_links": {("lost",): 1, ("stuck",): 1},
        "docora_links_overdue": {(): 3},  # no link was ever scanned
        "docora_nothing_moves": {(): 0},
        "docora_slow_cycle_seconds": {(): 0},
    }
    for hidden in ("secret-host", "killed", "HTTP 500", AUTH_KEY, GITHUB_TOKEN):
        assert hidden not in result.stdout


def test_the_help_has_all_reasons() -> None:
    row = next(row for row in topic("metrics").splitlines() if "docora_workers_refusing" in row)
    assert [reason for reason in REASONS if f"`{reason}`" not in row] == []


@pytest.mark.parametrize(
    ("down", "variable", "kept"),
    [
        ("postgres", "DATABASE_URL", OF_ANY | OF_REDIS | {"docora_queue_oldest_seconds"}),
        (
            "redis",
            "REDIS_URL",
            # Without Redis, nobody knows whether a job runs.
            (OF_ANY | OF_POSTGRES | {"docora_failed_links"}) - {"docora_nothing_moves"},
        ),
    ],
)
@pytest.mark.usefixtures("apps")
def test_a_server_that_is_down_has_no_numbers_but_that_it_is_down(
    docora: Docora, down: str, variable: str, kept: set[str]
) -> None:
    env = {variable: f"{down}://u:s3cr3t@127.0.0.1:{refused_port()}/1"}
    result = docora.run("metrics", "--by-app", env=env).ended(5)
    found = numbers(result)
    assert found.keys() == kept
    assert found["docora_up"] == {(name,): name != down for name in ("postgres", "redis")}
    assert result.stderr.count("Error: ") == 1
    assert "s3cr3t" not in result.stdout + result.stderr


def test_a_server_that_takes_over_two_seconds_is_down(docora: Docora) -> None:
    with Proxy.before_postgres(docora.database_url) as proxy:
        answer = proxy.plan(b"clock_timestamp", Fault.HOLD_REPLY)
        with docora.start("metrics", env={"DATABASE_URL": proxy.url}) as process:
            answer.wait()
            time.sleep(2.1)
            answer.release()
            result = finish(process)
    found = numbers(result)
    assert (result.code, found["docora_up"]) == (5, {("postgres",): 0, ("redis",): 1}), result
    assert found.keys().isdisjoint(OF_POSTGRES)


def test_the_most_frequent_errors_are_counted_and_all_others_together(docora: Docora) -> None:
    app, repositories = docora.add_app(), (docora.add_repository() for _ in range(100))
    errors: list[str | None] = [f"HTTP 502 on created src/{name}.py" for name in "abc"]
    errors += [None, None, *["word " * 30 + "end"] * 2]
    errors += [f"reason {letter}" for letter in "abcdefghijklmnopqrstuv"]
    for error in errors:
        docora.link(app, next(repositories), last_error=error)
    docora.link(app, next(repositories), "synced", last_error="none of a failed link")
    found = numbers(docora.run("metrics", "--by-error"))["docora_failed_links_by_error"]
    most = {
        "HTTP 502": 3,
        "no error recorded": 2,
        "word " * 23 + "word\N{HORIZONTAL ELLIPSIS}": 2,
        "others": 5,
    }
    assert found == {
        (error,): links
        for error, links in (most | {f"reason {each}": 1 for each in "abcdefghijklmnopq"}).items()
    }
    assert sum(found.values()) == len(errors)
    plain = docora.run("metrics").stdout
    assert "HTTP 502" not in plain
    assert "docora_failed_links_by_error" not in plain


def test_openmetrics_has_the_same_numbers_and_an_end(docora: Docora, apps: list[str]) -> None:
    arguments = ("metrics", "--by-app", "--by-error")
    plain, openmetrics = docora.run_together(arguments, (*arguments, "--openmetrics"))
    assert "# EOF" not in plain.stdout
    # Raises ValueError without an end.
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in openmetrics_families(openmetrics.stdout)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    expected = {
        (name, *labels): value
        for name, samples in numbers(plain).items()
        for labels, value in samples.items()
    }
    varying = {"docora_scrape_seconds", "docora_queue_oldest_seconds"}
    same = {each: value for each, value in found.items() if each[0] not in varying}
    assert same == {each: value for each, value in expected.items() if each[0] not in varying}
    down = docora.run(
        "metrics", "--openmetrics", env={"REDIS_URL": f"redis://127.0.0.1:{refused_port()}"}
    )
    assert (down.code, down.stdout.endswith("# EOF\n")) == (5, True)


# The cron line and the alert rules of the topic `metrics` do what the topic says

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: promtool)"
)
FAILED, NO_WORKERS, OVERDUE, STANDS, SLOW, NO_PASS, OPEN, WITHOUT_JOB, WRONG_BACKEND, NOT_SEEN = (
    *("DocoraFailedLinksStay", "DocoraNoWorkers", "DocoraLinksOverdue", "DocoraNothingMoves"),
    *("DocoraCycleIsSlow", "DocoraScheduleStopped", "DocoraCircuitsStayOpen"),
    *("DocoraLinksWithoutJob", "DocoraWrongBackend", "DocoraNotSeen"),
)
ALERTS = (
    *(FAILED, NO_WORKERS, OVERDUE, STANDS, SLOW, NO_PASS),
    *(OPEN, WITHOUT_JOB, WRONG_BACKEND, NOT_SEEN),
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
    "docora_links_overdue": "0x100",
    "docora_nothing_moves": "0x100",
    "docora_slow_cycle_seconds": "0x100",
    "docora_schedule_last_pass_timestamp_seconds": "0+60x100",
    "docora_circuits_open": "0x100",
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
    docora.redis.set("docora-ops:schedule", 1_764_380_000)
    link = docora.add_link()
    docora.redis.hset("docora-ops:holds", link.app_id, '{"until": null}')
    text = docora.run("metrics", "--by-app").stdout
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
FAILED_LINKS = 'docora_failed_links{app_id="a"}'
WAITING = 'docora_queue_jobs{queue="q",status="waiting"}'
LAST_PASS = "docora_schedule_last_pass_timestamp_seconds"
SERIES_OF_REDIS = [name for name in CALM if re.match("docora_(queue|workers|drift|schedule)", name)]
NO_REDIS = {
    'docora_up{server="redis"}': "1x10 0x90",
    **dict.fromkeys(SERIES_OF_REDIS, "1x10 stale"),
}
SCENARIOS: dict[str, tuple[dict[str, str], dict[int, list[str]]]] = {
    "peace": ({}, QUIET),
    "failed links stay": ({FAILED_LINKS: "3x100"}, {70: [], 99: [FAILED]}),
    "failed links of a held app": (
        {FAILED_LINKS: "3x100", 'docora_app_held{app_id="a"}': "1x100"},
        QUIET,
    ),
    "failed links drain": ({FAILED_LINKS: "300-3x100"}, QUIET),
    "no workers": ({BUSY: "1x10 0x90"}, {14: [], 20: [NO_WORKERS]}),
    "no workers and no job waits": ({BUSY: "1x10 0x90", WAITING: "0x100"}, {20: [NO_WORKERS]}),
    "no worker while others start": ({BUSY: "1x10 0x4 1x86"}, QUIET),
    "overdue links": ({"docora_links_overdue": "0x10 3x90"}, {14: [], 20: [OVERDUE]}),
    "nothing moves": ({"docora_nothing_moves": "0x10 1x90"}, {14: [], 20: [STANDS]}),
    "a slow cycle": ({"docora_slow_cycle_seconds": "0x10 2000x90"}, {35: [], 45: [SLOW]}),
    "the timer has stopped": ({LAST_PASS: "0+60x20 1200x80"}, {35: [], 45: [NO_PASS]}),
    "one pass by hand": ({LAST_PASS: "0x100"}, QUIET),
    "circuits that open again and again": (
        {"docora_circuits_open": "0x10 2x30 0x2 2x30 0x2 2x30"},
        {60: [], 80: [OPEN]},
    ),
    "a circuit that opens once": ({"docora_circuits_open": "0x10 2x30 0x60"}, QUIET),
    "suspended workers": ({BUSY: "0x100", SUSPENDED: "2x100"}, {4: [], 20: [NO_WORKERS]}),
    "another backend than is set": ({"docora_backend_ok": "0x100"}, {14: [], 20: [WRONG_BACKEND]}),
    "stuck links": ({'docora_drift_links{kind="stuck"}': "2x100"}, {14: [], 20: [WITHOUT_JOB]}),
    "lost for a moment": ({'docora_drift_links{kind="lost"}': "0x10 1x10 0x80"}, QUIET),
    "Redis is down": (NO_REDIS, {11: [], 20: [NOT_SEEN]}),
    "nothing is scraped": (dict.fromkeys(CALM, "1x10 stale"), {11: [], 20: [NOT_SEEN]}),
}
"""What differs from CALM, and which alerts fire after so many minutes."""


@pytest.mark.slow
@needs_promtool
def test_each_rule_fires_when_the_topic_says_and_not_in_peace(tmp_path: Path) -> None:
    rules_file = tmp_path / "rules.yml"
    rules_file.write_text(rules(), encoding="utf-8")
    assert "10 rules found" in run("promtool", "check", "rules", "--lint-fatal", str(rules_file))
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


@pytest.mark.slow
def test_the_cron_line_keeps_only_complete_texts(docora: Docora, tmp_path: Path) -> None:
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
