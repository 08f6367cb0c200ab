"""`--in-flight` beside passes of a scheduler: ours leaves its links alone, Docora's can't know."""

import signal
from contextlib import closing
from threading import Event

import pytest

from docora_ops.actions import ChangeOptions, LinkChoice, paced_run, retry_all_failed
from docora_ops.queue.progress import HEARD, selection_key
from tests.support.bullmq import Bullmq
from tests.support.docora import Docora, Process, finish
from tests.support.proxy import PATIENCE, eventually
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.running_commands import await_line, only_operation
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

ONE_TRY = {"MAX_RETRY_ATTEMPTS": "1"}


def start(docora: Docora, jobs: int = 1) -> tuple[Process, str]:
    """A run with one link at a time, once it waits for the first result."""
    process = docora.start("retry-all-failed", "--in-flight", str(jobs), "--json")
    eventually(lambda: len(docora.waiting()) == jobs, "jobs in flight")
    return process, only_operation(docora)


def end_job(docora: Docora, link: TestLink, status: str) -> None:
    """What a worker does that takes the link's job and writes a result."""
    docora.redis.lrem(docora.queue.key, 1, link.job_id)
    docora.set_link(link, status=status)
    docora.redis.delete(f"rq:job:{link.job_id}")


def test_a_schedule_takes_no_link_from_a_run_with_real_workers(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    links = snapshots.add_links([f"App{number}" for number in range(8)])
    begun, go_on = Event(), Event()

    def answer(request: Request) -> int:
        begun.set()
        go_on.wait(PATIENCE)
        return 503 if request.app in {"App0", "App5"} else 201

    snapshots.receiver.answer = answer
    with running(snapshots, **ONE_TRY) as worker:
        worker.await_ready()
        process = docora.start("retry-all-failed", "--in-flight", "2", "--json", env=ONE_TRY)
        assert begun.wait(PATIENCE)
        operation_id = only_operation(docora)
        eventually(lambda: len(docora.waiting()) == 1, "the second link in flight")
        first = docora.run("schedule", "--json")
        dry = docora.run("schedule", "--dry-run", "--json")
        go_on.set()
        while process.poll() is None:
            assert docora.run("schedule", "--json", env=ONE_TRY).code == 0
        result = finish(process)
    for each in (first, dry):
        assert each.data["left_to_operations"] == [{"operation_id": operation_id, "links": 6}]
        assert f"6 due links left to operation {operation_id}" in each.stderr
    assert (first.data["total"], first.data["already_queued"]) == (1, 1)
    assert result.code == 7, result
    assert (result.data["queued"], result.data["taken_over"]) == (len(links), 0)
    assert (result.data["waited"]["synced"], result.data["waited"]["failed"]) == (6, 2)
    over = docora.run("schedule", "--json")
    assert (over.data["left_to_operations"], over.data["total"]) == ([], 2)


def test_a_link_that_has_failed_again_is_left_too_and_a_rescan_is_not(docora: Docora) -> None:
    docora.add_links(3)
    first, second, third = docora.links()
    process, operation_id = start(docora)
    end_job(docora, first, "failed")
    eventually(lambda: docora.waiting() == [second.job_id], "the second link")
    result = docora.run("schedule", "--json")
    assert result.data["left_to_operations"] == [{"operation_id": operation_id, "links": 2}]
    assert (result.data["total"], result.data["already_queued"]) == (1, 1)
    docora.set_link(first, status="synced")
    rescan = docora.run("schedule", "--json")
    assert (rescan.data["queued"], rescan.data["already_queued"]) == (1, 1)
    assert docora.waiting() == [second.job_id, first.job_id]
    assert docora.statuses() == {"synced": 1, "pending_snapshot": 1, "failed": 1}
    assert third.job_id not in docora.waiting()
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130


def test_when_a_run_is_killed_the_schedule_goes_on(docora: Docora) -> None:
    docora.add_links(4)
    process, operation_id = start(docora)
    process.kill()
    finish(process)
    left = docora.run("schedule", "--json")
    assert left.data["left_to_operations"] == [{"operation_id": operation_id, "links": 3}]
    key = selection_key(operation_id)
    assert 0 < docora.redis.ttl(key) <= HEARD
    docora.redis.expire(key, 0)
    goes_on = docora.run("schedule", "--json")
    assert (goes_on.data["left_to_operations"], goes_on.data["queued"]) == ([], 3)
    docora.assert_sound()


def test_a_run_shows_again_and_again_that_it_is_under_way(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced_run, "_REPORT", 0)
    monkeypatch.setattr(paced_run, "_KEEP", 0)
    docora.add_links(4)
    options = ChangeOptions(in_flight=1)
    with closing(retry_all_failed(docora.actions().docora, LinkChoice(), options)) as steps:
        while not docora.waiting():
            next(steps)
        key = selection_key(only_operation(docora))
        assert docora.redis.strlen(key) == 4 * 16
        docora.redis.expire(key, 9)
        for _ in range(9):
            next(steps)
        assert docora.redis.ttl(key) > 9
        docora.redis.delete(key)  # as when Redis has lost its data
        for _ in range(9):
            next(steps)
        assert docora.redis.strlen(key) == 4 * 16


def test_beside_docoras_own_scheduler_a_run_counts_what_was_taken_over(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    docora.add_links(5)
    begun, go_on = Event(), Event()

    def work(_job_id: str) -> None:
        begun.set()
        go_on.wait(PATIENCE)

    options = ("--in-flight", "1", "--json")
    with bullmq.docora_at_work(work):
        process = docora.start("retry-all-failed", *options, env=bullmq.environment())
        await_line(process, "--in-flight holds back docora-ops only")
        assert begun.wait(PATIENCE)
        bullmq.schedule("failed")
        go_on.set()
        result = finish(process)
    assert (result.code, docora.statuses()) == (0, {"synced": 5}), result
    assert (result.data["reset"], result.data["taken_over"]) == (1, 4)
    assert "4 links had been queued or changed before, by a scheduler" in result.stderr
    assert docora.redis.keys("docora-ops:*selection") == []
