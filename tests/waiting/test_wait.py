"""`--wait` of `retry`, `resync` and `retry-all-failed`, beside a worker, ours or not, or none."""

import os
import re
import signal
from typing import Any

import pytest

from docora_ops.cli import waiting
from docora_ops.cli.context import Context
from docora_ops.operations import BulkWait, JobCounts
from tests.support.delivery_checks import events, link_row
from tests.support.docora import Docora, finish
from tests.support.fork_server import ForkedProcess
from tests.support.other_worker import other_worker
from tests.support.own_servers import OwnRedis
from tests.support.proxy import eventually, patience
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.running_commands import (
    ErrorOutput,
    await_line,
    only_operation,
    progress_of,
    small_pipe,
    terminate_sessions,
)
from tests.support.snapshots import Snapshots
from tests.support.terminal import on_terminal
from tests.support.worker_processes import running

ANIMATION = re.compile(r"\x1b\[\?25l|\x1b\[2K")


def waiting_for_one(docora: Docora, command: str) -> tuple[TestLink, ForkedProcess]:
    """The only link, and its `retry` or `retry-all-failed` that has said that it waits."""
    link = docora.add_link()
    arguments = (command, *link.ids) if command == "retry" else (command,)
    process = docora.start(*arguments, "--wait", "--json")
    await_line(process, "Waiting for 1 snapshot")
    return link, process


def test_each_result_of_one_link_has_its_code_and_its_words(docora: Docora) -> None:
    good, bad = docora.add_link(), docora.add_link()
    error = "HTTP 503 on \x1b[31mred"
    with other_worker(docora, lambda job_id: error if job_id == bad.job_id else None):
        synced = docora.run("retry", *good.ids, "--wait", "--json")
        again = docora.run("resync", *good.ids, "--wait", "--timeout", "60")
        failed = docora.run("retry", *bad.ids, "--wait", "--timeout", "60", "--json")
        failed_again = docora.run("retry", *bad.ids, "--wait")
    assert [each.code for each in (synced, again, failed, failed_again)] == [0, 0, 7, 7]
    ends = ("result", "status", "error_message")
    assert [synced.data["waited"][name] for name in ends] == ["synced", "synced", None]
    assert 0 <= synced.data["waited"]["seconds"] < 60
    assert "Waiting for 1 snapshot.\n" in synced.stderr
    assert re.search(r"^Result\tin sync, after \d+s$", again.stdout, re.MULTILINE)
    assert "Waiting for 1 snapshot, 1m at most.\n" in again.stderr
    assert [failed.data["waited"][name] for name in ends] == ["failed", "failed", error]
    assert failed.data["previous"]["error_message"] == "HTTP 500 on created README.md"
    assert re.search(r"^Result\tfailed again, after \d+s$", failed_again.stdout, re.MULTILINE)
    assert re.search(r"^Error\tHTTP 503 on \\x1b\[31mred$", failed_again.stdout, re.MULTILINE)
    assert "\x1b" not in failed_again.stdout + failed_again.stderr
    assert f"For details: docora-ops show {' '.join(bad.ids)}\n" in failed_again.stderr
    assert "docora-ops show" not in synced.stderr + again.stderr


ERRORS = ("HTTP 502 on created a.md", "HTTP 502 on created b/c.md", "it's -50% *", "")


def test_many_are_counted_by_result_and_failed_ones_grouped_by_error(docora: Docora) -> None:
    links = [docora.add_link() for _ in range(9)]
    errors = {link.job_id: ERRORS[number // 2] for number, link in enumerate(links[:8])}
    with other_worker(docora, errors.get):
        document = docora.run("retry-all-failed", "--wait", "--json")
        shown = docora.run("retry-all-failed", "--limit", "7", "--wait").ended(7)
    assert (document.code, document.data["queued"], document.data["cancelled"]) == (7, 9, False)
    waited = document.data["waited"]
    jobs = {"waiting": 0, "running": 0, "delayed": 0, "lost": 0}
    counts = {"synced": 1, "failed": 8, "gone": 0, "unfinished": 0}
    expected = {**counts, "jobs_by_state": jobs, "suspended": False, "lost_links": []}
    assert {name: waited[name] for name in expected} == expected
    assert {
        each["job_id"]: each["error_message"] or "" for each in waited["failed_links"]
    } == errors
    assert [(each["error_message"], each["links"]) for each in waited["failed_by_error"]] == [
        ("HTTP 502", 4),
        (None, 2),
        ("it's -50% *", 2),
    ]
    assert "Waiting for 9 snapshots.\n" in document.stderr
    assert re.search(r"^7 failed again, after \d+s$", shown.stdout, re.MULTILINE)
    assert re.search(r"^4\t2\t4\tApp \d+, .* and 1 more\tHTTP 502$", shown.stdout, re.MULTILINE)
    assert re.search(r"App \d+ ← \S+\tHTTP 502 on created a.md", shown.stdout)


def test_what_was_of_one_app_is_proven_by_this_app(docora: Docora) -> None:
    proof = "docora-ops verify"
    app_id = docora.add_app("Kim's Notes")
    docora.link(app_id, docora.add_repository("octo/api"))
    docora.add_link()
    with other_worker(docora):
        retried = docora.run("retry-all-failed", "--app", app_id, "--wait")
        resynced = docora.run("resync", app_id, "--all", "--yes", "--wait", "--json")
        operations = docora.run("operations", "--json").data
        again = [docora.run("wait", each["operation_id"]) for each in operations]
        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        every = docora.run("retry-all-failed", "--wait")
    assert retried.stderr.endswith(f"delivered: {proof} {app_id}\n")
    assert resynced.stderr.endswith(f"delivered: {proof} {app_id}\n")
    told = sorted(each.stderr.rpartition("delivered: ")[2] for each in again)
    assert told == [f"""{proof} 'Kim'"'"'s Notes'\n""", f"{proof} {app_id}\n"]
    assert every.stderr.endswith(f"delivered: {proof}\n")


def test_when_no_worker_listens_the_wait_warns_at_once_and_time_runs_out(docora: Docora) -> None:
    one, other = docora.add_link(), docora.add_link()
    single, bulk = docora.run_together(
        ("retry", *one.ids, "--wait", "--timeout", "1", "--json"),
        ("retry-all-failed", "--app", other.app_id, "--wait", "--timeout", "1"),
    )
    assert single.code == 8, single
    waited = single.data["waited"]
    assert (waited["result"], waited["status"]) == ("timeout", "pending_snapshot")
    assert waited["seconds"] >= 1
    for said in (single.stderr, bulk.stderr):
        no_worker, start = said.index("no worker listens"), said.index("docora-ops worker")
        assert no_worker < start < said.index("Waiting for") < said.index("Time ran out")
    assert f"docora-ops wait {one.app_id} {one.repository_id}" in single.stderr
    assert bulk.code == 8, bulk
    assert re.search(r"^1 still to come \(1 waiting\), after \d+s$", bulk.stdout, re.MULTILINE)
    docora.assert_sound()


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [("retry", signal.SIGINT, 130), ("retry-all-failed", signal.SIGHUP, 129)],
)
def test_an_interrupt_ends_the_wait_and_shows_what_is_known(
    docora: Docora, command: str, number: signal.Signals, code: int
) -> None:
    link, process = waiting_for_one(docora, command)
    result = finish(process, number).ended(code)
    if command == "retry":
        waited = result.data["waited"]
        assert (waited["result"], waited["status"]) == ("interrupted", "pending_snapshot")
        assert waited["error_message"] is None, "the error of before"
    else:
        assert (result.data["cancelled"], result.data["waited"]["unfinished"]) == (False, 1)
    assert "go on" in result.stderr or "goes on" in result.stderr
    docora.assert_sound()
    assert docora.was_reset(link)


def test_a_run_that_is_interrupted_is_not_waited_for(docora: Docora) -> None:
    docora.add_links(500)
    process = docora.start("retry-all-failed", "--batch-size", "1", "--wait", "--json")
    eventually(lambda: docora.waiting() != [], "the first job")
    result = finish(process, signal.SIGINT).ended(130)
    assert result.data["cancelled"]
    assert 0 < result.data["waited"]["unfinished"] == result.data["put_to_work"] < 500
    assert "Waiting for" not in result.stderr
    docora.assert_sound()


@pytest.mark.parametrize("option", ["--wait", "--in-flight=2"])
def test_a_server_that_is_lost_while_waiting_is_an_error_with_what_was_done(
    docora: Docora, option: str
) -> None:
    link = docora.add_link()
    process = docora.start("retry-all-failed", option, "--json")
    eventually(lambda: docora.was_reset(link), "its change")
    operation = only_operation(docora)
    eventually(lambda: progress_of(docora, operation)["completed"] == "1", "its progress")
    terminate_sessions(docora)
    result = finish(process).ended(5, "postgres")
    assert "the jobs go on" in result.stderr
    assert (result.data["queued"], result.data["waited"]["unfinished"]) == (1, 1)
    docora.assert_sound()


QUICK = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def test_a_wait_for_nothing_but_lost_jobs_ends_and_names_repair(docora: Docora) -> None:
    one, app_id = docora.add_link(), docora.add_link().app_id
    docora.link(app_id, docora.add_repository())
    docora.add_worker()
    single = docora.start("retry", *one.ids, "--wait", "--json", env=QUICK)
    bulk = docora.start("retry-all-failed", "--app", app_id, "--wait", "--json", env=QUICK)
    for process in (single, bulk):
        await_line(process, "Waiting for ")
    docora.redis.flushdb()
    results = [finish(process) for process in (single, bulk)]
    assert [result.code for result in results] == [6, 6], results
    assert results[0].data["waited"]["result"] == "lost"
    assert f"docora-ops repair {one.app_id} {one.repository_id}" in results[0].stderr
    waited = results[1].data["waited"]
    assert (waited["unfinished"], len(waited["lost_links"])) == (2, 2)
    assert waited["jobs_by_state"] == {"waiting": 0, "running": 0, "delayed": 0, "lost": 2}
    assert "To queue again: docora-ops repair" in results[1].stderr
    assert all("no worker listens" in result.stderr for result in results)
    assert docora.statuses() == {"pending_snapshot": 3}


def test_a_wait_shows_where_the_jobs_stand_and_goes_on_while_some_are_lost(docora: Docora) -> None:
    links = [docora.add_link() for _ in range(4)]
    docora.add_worker()
    process = docora.start("retry-all-failed", "--wait", "--timeout", "60", "--json", env=QUICK)
    await_line(process, "Waiting for 4 snapshots")
    waiting, running, delayed, lost = links
    docora.redis.set("rq:suspended", "1")
    for link in (running, delayed, lost):
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
    docora.start_job(running.job_id)
    docora.redis.lrem(docora.queue.key, 0, running.job_id)
    docora.schedule_job(delayed.job_id)
    docora.redis.delete(f"rq:job:{lost.job_id}", "rq:worker:worker-1")
    expected = {"suspended. To go on: docora-ops resume", "no live job for 1 of the links"}
    expected.add("no worker listens on the queue snapshot-queue any more")
    while expected:
        line = process.stderr.readline()
        expected = {each for each in expected if each not in line}
    result = finish(process, signal.SIGINT)
    assert (result.code, result.data["waited"]["unfinished"]) == (130, 4), result
    jobs = {"waiting": 1, "running": 1, "delayed": 1, "lost": 1}
    assert result.data["waited"]["jobs_by_state"] == jobs
    assert docora.waiting() == [waiting.job_id]


def test_where_no_bar_can_move_a_line_tells_now_and_then_how_far_it_is(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "_SAY_EACH", 0)
    jobs = JobCounts(waiting=2, running=1)
    step = BulkWait(4, 1, 0, 3, (), seconds=9, jobs_by_state=jobs)
    with waiting.showing_wait(Context(), "8 snapshots") as show:
        show(step, 2)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "Waiting for 8 snapshots.",
        "1 failed again, 4 in sync, 3 in flight (2 waiting, 1 running), 2 not queued yet.",
    ]


def test_a_redis_that_goes_away_does_not_end_a_wait(docora: Docora, own: OwnRedis) -> None:
    docora.add_link()
    env = {**QUICK, "REDIS_URL": own.url}
    process = docora.start("retry-all-failed", "--wait", "--json", env=env)
    await_line(process, "Waiting for 1 snapshot")
    own.stop()
    await_line(process, "the wait goes on, since the results are in Postgres")
    docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
    assert finish(process).ended(0).data["waited"]["synced"] == 1


def test_a_terminal_shows_a_bar(docora: Docora) -> None:
    link, *_ = [docora.add_link() for _ in range(4)]
    with other_worker(docora, lambda job_id: "HTTP 503" if job_id == link.job_id else None):
        code, shown = on_terminal(docora, ["retry-all-failed", "--yes", "--wait"])
    assert code == 7, shown
    bar = shown[shown.index("bulk_") :]
    assert ANIMATION.search(bar)
    assert "1 failed again, 3 in sync" in bar
    assert re.search(r"\d still to come", bar)


TWO_TRIES = {"MAX_RETRY_ATTEMPTS": "2", "RETRY_BASE_DELAY_MS": "0"}
CREATED = ("create", "README.md")
ERROR = "HTTP 503 on created README.md"


def test_what_a_worker_does_is_what_the_command_says(snapshots: Snapshots, docora: Docora) -> None:
    upstream = snapshots.add_upstream()
    upstream.commit({"README.md": "# Acme\n"})
    repository = snapshots.add_repository(upstream)
    good, bad = (snapshots.link(snapshots.add_app(name), repository) for name in ("Good", "Bad"))
    answers = {"Good": [503], "Bad": [503] * 4}

    def answer(request: Request) -> int:
        left = answers[request.app]
        return left.pop() if left else 201

    snapshots.receiver.answer = answer
    wait = ("--wait", "--timeout", "60", "--json")
    with running(snapshots, **TWO_TRIES) as worker:
        worker.await_ready()
        second_try = docora.run("retry", *good.ids, *wait, env=TWO_TRIES).ended(0)
        assert second_try.data["waited"]["status"] == "synced"
        assert events(snapshots, "Good") == [CREATED] * 2
        assert "no worker" not in second_try.stderr

        failed = docora.run("retry", *bad.ids, *wait, env=TWO_TRIES).ended(7)
        assert failed.data["waited"]["error_message"] == ERROR
        assert link_row(snapshots, bad) == ("failed", 2, ERROR)

        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        both = docora.run("retry-all-failed", *wait, env=TWO_TRIES).ended(7)
        assert (both.data["waited"]["synced"], both.data["waited"]["unfinished"]) == (1, 0)
        assert [each["job_id"] for each in both.data["waited"]["failed_links"]] == [bad.job_id]

        docora.run("retry-all-failed", *wait, env=TWO_TRIES).ended(0)
        assert docora.statuses() == {"synced": 2}


def test_a_signal_ends_a_command_that_had_nothing_to_wait_for(docora: Docora) -> None:
    link = docora.add_link("synced")
    docora.enqueue(link.job_id)
    reader, writer, _ = small_pipe()
    os.write(writer, bytes(4096))
    process: Any = docora.start_installed("wait", *link.ids, stdout=writer)
    os.close(writer)
    await_line(process, "A rescan of this link")  # the result follows, and nobody reads it
    process.send_signal(signal.SIGINT)
    try:
        ErrorOutput(process).wait_for("Error: interrupted")
    finally:
        os.close(reader)
    assert process.wait(patience()) == 130


def test_a_signal_after_the_wait_ends_the_command(docora: Docora) -> None:
    for _ in range(6):
        docora.add_link()
    reader, writer, is_full = small_pipe()
    process = docora.start_installed("retry-all-failed", "--wait", stdout=writer)
    os.close(writer)
    with other_worker(docora, lambda _: "a long error " * 75):
        eventually(is_full, "results that nobody reads")
    process.send_signal(signal.SIGINT)
    assert process.stderr
    said = next(line for line in process.stderr if "interrupted" in line or "Stopping" in line)
    os.close(reader)
    assert (said, process.wait(patience())) == ("Error: interrupted\n", 130)
