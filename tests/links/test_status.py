"""`status`: one screen that tells what is wrong, how much, and whether it is over."""

import re
from types import SimpleNamespace

import pytest
from rq.job import JobStatus

from docora_ops.actions import read_status
from docora_ops.actions import status as status_action
from docora_ops.actions.status import DriftCounts
from tests.links.conftest import GIT_ERROR
from tests.support.docora import Docora
from tests.support.read_only import frozen, read_only
from tests.support.terminal import at_terminals, plain_data

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}
NO_POSTGRES = {"DATABASE_URL": "postgres://ops@127.0.0.1:1/docora"}
NO_REDIS = {"REDIS_URL": "redis://127.0.0.1:1/7"}

TROUBLE = """\
Links      5 pending snapshot, 1 scanning, 2 synced, 30 failed
           in the last 15m at least 2 synced, 3 failed
Failed     30 in 6 apps, good until TIME, 2h2m ago: docora-ops apps
             15  Tidewater Notes (app_t1)
              4  App 1
              4  Tidewater Notes (app_t2)
             and 3 more
           with 6 different errors: docora-ops failed --group-by error
             15  (no error recorded)
              8  HTTP 502
              4  fatal: unable to access 'https://github.com/tide/notes/': The …
             and 3 more
Circuits   1 repository open: docora-ops links --circuit open
Freshness  last good scan 0s ago
Queue      3 waiting (the oldest for 2h)
Workers    none; to start one: docora-ops worker
Schedule   no pass known; a timer should run: docora-ops schedule
Drift      2 lost links, 1 stuck: docora-ops repair
Operation  OPERATION: 3 of 3, done, 0s ago
"""


def screen(shown: str) -> str:
    """The rows below the names of the servers, without what differs from run to run."""
    shown = re.sub(r"[0-9]{4}-[0-9-]+T[0-9:.]+Z", "MOMENT", shown)
    shown = re.sub(r"bulk_[0-9a-f]{16}", "OPERATION", shown)
    shown = re.sub(r"\b\d+s ago", "0s ago", shown)
    shown = re.sub(r"\d\d:\d\dZ", "TIME", shown)
    lines = [line.rstrip() for line in shown.splitlines()]
    start = next(number for number, line in enumerate(lines) if line.startswith("Links"))
    return "".join(f"{line}\n" for line in lines[start:])


@pytest.mark.slow
def test_trouble_fits_one_screen(trouble: Docora) -> None:
    with frozen(trouble):
        shown = at_terminals(trouble, ["status"], columns=80, env=read_only(trouble) | AT_ONCE)
        pipe = trouble.run("status", env=read_only(trouble) | AT_ONCE).stdout.splitlines()
    assert (shown.code, shown.talk) == (0, "")
    assert f"Failed\t4  {GIT_ERROR}" in pipe
    assert pipe[0].startswith("nothing is scanned: no worker runs; 3 jobs waiting, last scan ")
    assert shown.data.startswith("\x1b[1;31mnothing is scanned")
    assert screen(plain_data(shown.data)) == TROUBLE
    # With at most three lines of servers, and the prompt, it fits 24.
    assert len(screen(plain_data(shown.data)).splitlines()) <= 20
    commands = re.findall(r"(?:ago|errors): docora-ops (.*)", TROUBLE)
    rows = [trouble.run(*command.split(), "--json").data for command in commands]
    assert [len(each) for each in rows] == [6, 6]
    data = trouble.run("status", "--json", env=AT_ONCE).data
    assert data["links_by_status"]["failed"] == 30
    assert (data["open_circuits"], data["failed_apps"], data["failed_errors"]) == (1, 6, 6)
    names = ["Tidewater Notes"]
    group = {"error_message": None, "links": 15, "apps": 1, "files": 0, "app_names": names}
    never = {"good_until_at": None, "good_until_seconds": None, "oldest_scan_seconds": None}
    assert data["failed_by_error"][0] == group | never
    assert data["good_until_at"] == data["failed_by_error"][1]["good_until_at"]
    assert (data["freshness"]["scanned_recently"], data["queue"]["failed_recently"]) == (2, 3)
    assert 7200 <= data["queue"]["oldest_waiting_seconds"] < 7800
    assert data["drift"] == {"lost": 2, "stuck": 1, "at_least": False}
    assert data["last_operation"]["total"] == 3


@pytest.mark.slow
def test_a_first_sentence_of_several_lines_leaves_fewer_lines_to_the_rest(trouble: Docora) -> None:
    trouble.add_worker()
    pause = ("pause", "--for", "1h", "--yes", "--reason", "the gateway is replaced " * 12)
    assert trouble.run(*pause).code == 0
    shown = plain_data(at_terminals(trouble, ["status"], columns=80, env=AT_ONCE).data)
    assert len(shown.splitlines()) <= 22, shown


def test_a_hanging_app_is_named_before_its_links_fail(docora: Docora) -> None:
    app_id = docora.add_app("Quiet Harbor")
    for number, status in enumerate(("pending_snapshot", "pending_snapshot", "scanning", "synced")):
        error = f"no answer within 30 s on created {number}.ts"
        docora.link(app_id, docora.add_repository(), status, last_error=error)
    docora.add_link("pending_snapshot", last_error="HTTP 502 on created a.ts")
    shown, document = docora.run_together(("status",), ("status", "--json"), env=AT_ONCE)
    row = "Tries\t3 links of Quiet Harbor are tried again: no answer within 30 s"
    assert row in shown.stdout.splitlines(), shown
    groups = document.data["tried_by_error"]
    assert [(group["links"], group["apps"]) for group in groups] == [(3, 1), (1, 1)]


def test_suspended_workers_and_an_operation_of_the_dashboard_are_told(docora: Docora) -> None:
    docora.redis.set("rq:suspended", 1)
    docora.redis.hset("docora:bulk:bulk_0123456789abcdef", items=["total", 12, "completed", 4])
    docora.redis.expire("docora:bulk:bulk_0123456789abcdef", 3600)
    shown = docora.run("status").stdout
    for text in (
        *("Links\tnone\n", "paused: workers are suspended\n", "to go on: docora-ops resume"),
        "bulk_0123456789abcdef: 4 of 12, running, ",
    ):
        assert text in shown
    # What is in order takes no line.
    named = {line.partition("\t")[0] for line in shown.splitlines()[1:]}
    assert named == {"Postgres", "Redis", "Links", "Workers", "Schedule", "Operation"}


@pytest.mark.parametrize(
    ("env", "code", "rows"),
    [
        (NO_POSTGRES, "postgres", ["Queue", "Workers", "Schedule", "Operation"]),
        (NO_REDIS, "redis", ["Links", "Failed", "Freshness"]),
    ],
)
def test_a_lost_server_leaves_what_the_other_one_tells(
    docora: Docora, env: dict[str, str], code: str, rows: list[str]
) -> None:
    docora.add_links(2)
    assert docora.run("retry-all-failed", "--limit", "1", "--yes").code == 0
    shown, document = docora.run_together(("status",), ("status", "--json"), env=env)
    assert shown.code == document.code == 5
    sentence, *lines = shown.stdout.splitlines()
    found = list(dict.fromkeys(line.partition("\t")[0] for line in lines))
    assert found == ["Postgres", "Redis", *rows]
    assert sentence.startswith(f"{code.capitalize()} can't be used: the state of ")
    assert document.data["headline"]["code"] == "server_down"
    assert shown.stderr.count("Error: ") == 1
    assert document.json["code"] == code
    data = document.data
    lost = (data["links_by_status"] is None, data["queue"] is None, data["drift"])
    assert lost == (env is NO_POSTGRES, env is NO_REDIS, None)


def test_links_that_outnumber_the_jobs_are_lost_even_if_there_are_too_many_to_look_at(
    docora: Docora,
) -> None:
    docora.add_links(5003, status="pending_snapshot")
    docora.age_links()
    killed, *waiting = docora.links()[:3]
    for link in waiting:
        docora.enqueue(link.job_id)
    docora.set_link(killed, status="scanning")
    docora.start_job(killed.job_id, heartbeat=-80, worker="killed")
    docora.add_worker()  # which will soon recover the link
    docora.redis.hset("rq:worker:worker-1", "clock_ahead", "0")
    shown = docora.run("status", env=AT_ONCE).stdout
    assert "Drift\tat least 5,000 lost links: docora-ops repair\n" in shown


def test_a_link_is_lost_if_no_job_says_that_it_waits(docora: Docora) -> None:
    taken, dropped, spoiled, _none = (docora.add_link("pending_snapshot") for _ in range(4))
    docora.leave_job(taken.job_id, JobStatus.QUEUED)
    docora.leave_job(dropped.job_id, JobStatus.FAILED)
    docora.redis.set(f"rq:job:{spoiled.job_id}", "not a hash")
    docora.link(docora.add_app("Odd", "app-odd"), docora.add_repository(), "scanning")
    docora.age_links()
    drift = docora.run("status", "--json", env=AT_ONCE).data["drift"]
    assert drift == {"lost": 3, "stuck": 1, "at_least": False}


def test_a_lost_link_counts_among_others(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    first_app = docora.add_app()
    docora.add_link("pending_snapshot")
    docora.age_links()
    monkeypatch.setattr(status_action, "_MOST", 2)

    def queue_others(_: float) -> None:
        for _ in range(3):
            docora.enqueue(
                docora.link(first_app, docora.add_repository(), "pending_snapshot").job_id
            )
        docora.age_links()

    monkeypatch.setattr(status_action, "time", SimpleNamespace(sleep=queue_others))
    found, _ = read_status(docora.actions(drift_grace=5).docora)
    assert found.drift == DriftCounts(1, 0)


@pytest.mark.parametrize("too_many", [False, True])
def test_a_link_that_a_worker_is_just_beginning_is_no_reason_to_repair(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, too_many: bool
) -> None:
    begins, lost = (docora.add_link("pending_snapshot") for _ in range(2))
    docora.age_links()
    monkeypatch.setattr(status_action, "_MOST", 1 if too_many else 5000)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        docora.enqueue(begins.job_id)

    monkeypatch.setattr(status_action, "time", SimpleNamespace(sleep=pause))
    actions = docora.actions(drift_grace=5)
    found, errors = read_status(actions.docora)
    assert (found.drift, errors, pauses) == (DriftCounts(1, 0, at_least=too_many), [], [5])
    docora.enqueue(lost.job_id)
    found, _ = read_status(actions.docora)
    assert (found.drift, pauses) == (DriftCounts(0, 0, at_least=too_many), [5]), "not slowed down"
