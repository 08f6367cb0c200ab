"""`--in-flight` beside passes of a scheduler: ours leaves its links alone, Docora's can't know."""

import signal
import time
from contextlib import closing
from threading import Event
from types import SimpleNamespace

import pytest

from docora_ops.actions import ChangeOptions, LinkChoice, following, paced_run, retry_all_failed
from docora_ops.queue.progress import HEARD, selection_key
from tests.support.bullmq import Bullmq
from tests.support.docora import Docora, Process, finish
from tests.support.proxy import PATIENCE, eventually
from tests.support.running_commands import await_line, only_operation


def start(docora: Docora) -> tuple[Process, str]:
    """A run with one link at a time, once it waits for the first result."""
    process = docora.start("retry-all-failed", "--in-flight", "1", "--json")
    eventually(lambda: docora.statuses().get("pending_snapshot") == 1, "a link in flight")
    return process, only_operation(docora)


def test_a_link_that_has_failed_again_is_left_too_and_a_rescan_is_not(docora: Docora) -> None:
    docora.add_links(3)
    first, second, third = docora.links()
    process, operation_id = start(docora)
    # A worker takes its job, which fails.
    docora.redis.lrem(docora.queue.key, 1, first.job_id)
    docora.set_link(first, status="failed")
    docora.redis.delete(f"rq:job:{first.job_id}")
    eventually(lambda: docora.waiting() == [second.job_id], "the second link")
    for options in (("--dry-run",), ()):
        result = docora.run("schedule", *options, "--json")
        assert result.data["left_to_operations"] == [{"operation_id": operation_id, "links": 2}]
        assert (result.data["total"], result.data["already_queued"]) == (1, 1)
        assert f"2 due links left to operation {operation_id}" in result.stderr
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
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None)
    monkeypatch.setattr(following, "time", clock)
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
