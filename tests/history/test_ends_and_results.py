"""What came of a bulk operation, and why it ended: in `history`, `operations` and `progress`."""

import signal
from threading import Event
from typing import Any

import pytest

from docora_ops.demo.receiver import Request
from tests.in_flight.watching import Watch
from tests.support.bulk_actions import RETRY
from tests.support.docora import Docora, finish
from tests.support.fork_server import ForkedProcess
from tests.support.other_worker import other_worker
from tests.support.proxy import PATIENCE, eventually
from tests.support.running_commands import await_line, only_operation, terminate_sessions
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

NO_DATABASE = {"DATABASE_URL": None}
PACED = ("retry-all-failed", "--error", "HTTP 500", "--in-flight", "2", "--json")
ONE_TRY = {"MAX_RETRY_ATTEMPTS": "1"}


def told(docora: Docora) -> dict[str, Any]:
    """What the three commands tell of the only operation, which is the same."""
    operation_id = only_operation(docora)
    [listed] = docora.run("operations", "--json", env=NO_DATABASE).data
    shown = docora.run("progress", operation_id, "--json", env=NO_DATABASE).data
    [entry] = [
        each
        for each in docora.run("history", "--json", env=NO_DATABASE).data
        if each["operation_id"] == operation_id and each["command"] != "cancel"
    ]
    for name in ("failures", "waited"):
        del shown[name]
    for each in (shown, listed):
        del each["last_step_at"], each["last_step_seconds"]  # to a second
    assert shown == listed
    names = ("who", "command", "selection", "stopped_by", "cancelled_by", "results")
    assert {name: entry[name] for name in names} == {name: listed[name] for name in names}
    return {**listed, "counts": entry["counts"]}


def screens(docora: Docora) -> list[str]:
    operation_id = only_operation(docora)
    return [
        " ".join(docora.run(*command, env=NO_DATABASE).stdout.split())
        for command in (("operations",), ("progress", operation_id), ("history",))
    ]


def results(synced: int, failed: int, unfinished: int) -> dict[str, int]:
    return {"synced": synced, "failed": failed, "gone": 0, "unfinished": unfinished}


def start_with_results(docora: Docora) -> ForkedProcess:
    """A run of six links, with one in sync, one failed again, and two in flight."""
    docora.add_links(6)
    process = docora.start(*PACED)
    for job_id, error in zip(
        [link.job_id for link in docora.links()[:2]], (None, "HTTP 500"), strict=True
    ):
        eventually(lambda job_id=job_id: job_id in docora.waiting(), "a job")  # type: ignore[misc]
        docora.redis.lrem(docora.queue.key, 1, job_id)
        docora.connection.execute(
            "UPDATE app_repositories SET status = %s, last_error = %s"
            " WHERE app_id || '-' || repository_id = %s",
            ("failed" if error else "synced", error, job_id),
        )
        docora.redis.delete(f"rq:job:{job_id}")
    eventually(lambda: docora.statuses().get("pending_snapshot") == 2, "two in flight")
    eventually(lambda: len(docora.waiting()) == 2, "two jobs")
    return process


def test_a_colleague_who_cancels_is_named_and_the_results_are_there(docora: Docora) -> None:
    process = start_with_results(docora)
    operation_id = only_operation(docora)
    cancelled = docora.run("cancel", operation_id)
    assert cancelled.code == 0, cancelled
    await_line(process, "No further link is queued: ")
    with other_worker(docora):
        result = finish(process)
    assert result.code == 7, result
    found = told(docora)
    assert (found["state"], found["stopped_by"]) == ("cancelled", "cancelled")
    assert found["cancelled_by"] == found["who"]
    assert found["results"] == results(3, 1, 0)
    assert (found["command"], found["selection"]) == (
        "retry-all-failed",
        {"error": ["HTTP 500"], "in_flight": 2},
    )
    assert (result.data["stopped_by"], result.data["cancelled_by"]) == (
        "cancelled",
        found["cancelled_by"],
    )
    for screen in screens(docora):
        assert f"cancelled by {found['cancelled_by']}" in screen
        assert "3 in sync, 1 failed again" in screen
        assert "retry-all-failed --error 'HTTP 500' --in-flight 2" in screen
        assert found["who"] in screen


@pytest.mark.parametrize(
    ("end", "code", "reason", "words"),
    [
        (signal.SIGHUP, 129, "interrupted", "interrupted"),
        (signal.SIGTERM, 130, "interrupted", "interrupted"),
        (None, 5, "lost_server", "lost server"),
    ],
)
def test_a_run_that_is_cut_off_is_not_cancelled_and_its_results_are_there(
    docora: Docora, end: signal.Signals | None, code: int, reason: str, words: str
) -> None:
    process = start_with_results(docora)
    if end:
        process.send_signal(end)
    else:
        docora.connection.execute("ALTER TABLE app_repositories RENAME TO gone")
        terminate_sessions(docora)
    result = finish(process)
    if not end:
        docora.connection.execute("ALTER TABLE gone RENAME TO app_repositories")
    assert result.code == code, result
    found = told(docora)
    assert (found["state"], found["stopped_by"]) == ("cancelled", reason)
    assert (found["cancelled_by"], result.data["stopped_by"]) == (None, reason)
    assert found["results"] == results(1, 1, 2)
    assert found["counts"] == {"total": 6, "queued": 4}
    for screen in screens(docora):
        assert words in screen
        assert "1 in sync, 1 failed again, 2 not finished" in screen
        assert "cancelled" not in screen


@pytest.mark.parametrize(
    ("option", "reason", "words"),
    [
        ("--max-failures=1", "max_failures", "max failures"),
        ("--timeout=1", "timeout", "timeout"),
    ],
)
def test_what_the_run_stops_by_itself_is_told_apart(
    docora: Docora, option: str, reason: str, words: str
) -> None:
    docora.add_links(8)
    watch = Watch(docora, lambda _: "HTTP 503" if reason == "max_failures" else "the snapshot")
    if reason == "max_failures":
        with other_worker(docora, watch):
            docora.run(*PACED, option)
    else:
        docora.run(*PACED, option)
    found = told(docora)
    assert (found["state"], found["stopped_by"]) == ("cancelled", reason)
    failed = found["results"]["failed"]
    assert (failed >= 2) == (reason == "max_failures")
    assert all(words in screen for screen in screens(docora))


def test_a_killed_run_leaves_the_results_of_its_last_look(docora: Docora) -> None:
    process = start_with_results(docora)
    key = f"docora:bulk:{only_operation(docora)}"
    eventually(lambda: b'"failed": 1' in (docora.redis.hget(key, "results") or b""), "results")
    process.kill()
    finish(process)
    [listed] = docora.run("operations", "--json").data
    assert (listed["results"]["synced"], listed["results"]["failed"]) == (1, 1)
    [entry] = docora.run("history", "--json").data
    assert (entry["state"], entry["stopped_by"]) == ("not_finished", None)


def test_the_results_of_a_wait_with_real_workers_are_kept(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    snapshots.add_links(("Good", "Well", "Down"))

    def answer(request: Request) -> int:
        return 503 if request.app == "Down" else 201

    snapshots.receiver.answer = answer
    with running(snapshots, **ONE_TRY) as worker:
        worker.await_ready()
        result = docora.run("retry-all-failed", "--wait", "--json", env=ONE_TRY)
    assert result.code == 7, result
    found = told(docora)
    assert (found["state"], found["stopped_by"]) == ("done", None)
    assert found["results"] == results(2, 1, 0)
    assert found["counts"] == {"total": 3, "queued": 3}
    assert "3 queued; 2 in sync, 1 failed again" in screens(docora)[2]


def test_a_later_wait_of_somebody_else_adds_the_results(docora: Docora) -> None:
    RETRY.add_links(docora, 3)
    assert docora.run("retry-all-failed").code == 0
    operation_id = only_operation(docora)
    assert told(docora)["results"] is None
    too_short = docora.run("wait", operation_id, "--timeout", "1")
    assert too_short.code == 8, too_short
    assert told(docora)["results"] == results(0, 0, 3)
    with other_worker(docora):
        waited = docora.run("wait", operation_id, "--json")
    assert (waited.code, waited.data["results"]) == (0, results(3, 0, 0))
    assert told(docora)["results"] == results(3, 0, 0)
    # All are known: a retry of somebody else changes nothing about it.
    docora.connection.execute("UPDATE app_repositories SET status = 'pending_snapshot'")
    docora.run("wait", operation_id, "--timeout", "1")
    assert told(docora)["results"] == results(3, 0, 0)
    assert len(docora.run("history", "--json").data) == 1
    docora.redis.delete(f"docora:bulk:{operation_id}")
    [entry] = docora.run("history", "--json").data
    assert entry["results"] == results(3, 0, 0)


def test_a_cancellation_of_the_dashboard_has_no_name(docora: Docora) -> None:
    begun = Event()
    docora.add_links(6)
    process = docora.start(*PACED)
    eventually(lambda: len(docora.waiting()) == 2, "two jobs")
    docora.redis.hset(f"docora:bulk:{only_operation(docora)}", "cancelled", "true")
    await_line(process, "No further link is queued: cancelled")
    with other_worker(docora, lambda _: begun.set()):
        assert finish(process).code == 6
    found = told(docora)
    assert (found["stopped_by"], found["cancelled_by"]) == ("cancelled", None)
    assert begun.wait(PATIENCE)


def test_fields_that_others_have_written_are_shown_as_far_as_they_can_be_read(
    docora: Docora,
) -> None:
    key = "docora:bulk:bulk_0123456789abcdef"
    docora.redis.hset(key, items=["total", "2", "completed", "1", "cancelled", "true"])
    docora.redis.hset(key, items=["who", "\x1b[31mkim", "command", "x", "selection", "[]"])
    docora.redis.hset(key, items=["stopped_by", "rain", "results", '{"synced": "x"}'])
    [listed] = docora.run("operations", "--json").data
    assert (listed["stopped_by"], listed["results"], listed["selection"]) == (None, None, {})
    shown = docora.run("progress", "bulk_0123456789abcdef").stdout
    assert r"\x1b[31mkim" in shown
    assert "\x1b" not in shown
