"""Worker processes: signals, children, and retries that wait."""

import os
import signal
import threading
import time
from typing import cast

import pytest
from rq.job import JobStatus

from docora_ops.demo.receiver import Request
from tests.support.docora import QUEUE
from tests.support.proxy import PATIENCE, eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import (
    all_processes,
    await_waiting_worker,
    expire_heartbeats,
    held_worker,
    parent_of,
    running,
)


def add_link(snapshots: Snapshots, **retry: int) -> TestLink:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"}, **retry)
    return link


def queue_two(snapshots: Snapshots) -> None:
    for link in snapshots.add_links(["One", "Two"]).values():
        snapshots.queue(link)


def names(snapshots: Snapshots) -> set[str]:
    """Workers on RQ's screens."""
    keys = cast("set[bytes]", snapshots.docora.redis.smembers(f"rq:workers:{QUEUE}"))
    return {key.decode().removeprefix("rq:worker:") for key in keys}


@pytest.mark.parametrize(
    ("number", "concurrency"),
    [
        *((signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")),
        *((signal.SIGHUP, "2"), (signal.SIGINT, "2")),
    ],
    ids=["TERM", "INT", "TERM to two", "HUP to two", "Ctrl-C, which comes to all of the group"],
)
def test_a_signal_ends_it_when_the_job_in_hand_is_done(
    snapshots: Snapshots, number: signal.Signals, concurrency: str
) -> None:
    link = add_link(snapshots)
    with held_worker(snapshots, "--concurrency", concurrency) as (gate, worker):
        worker.await_ready(int(concurrency))
        if (number, concurrency) == (signal.SIGINT, "2"):
            os.killpg(worker.pid, number)
        else:
            worker.signal(number)
        worker.await_line("told to end", int(concurrency))
        eventually(lambda: len(names(snapshots)) == 1, "the end of who is idle")
        snapshots.docora.enqueue("app_1-repo_1")
        gate.release()
        assert worker.end() == 0
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert snapshots.docora.status(link) == "synced"
    assert sorted(snapshots.received().files) == ["a", "b"]
    assert snapshots.docora.waiting() == ["app_1-repo_1"]
    assert names(snapshots) == set()


def test_a_third_signal_kills_the_job_and_its_link_is_not_lost(snapshots: Snapshots) -> None:
    link = add_link(snapshots, retry_base_delay_ms=0)
    with held_worker(snapshots) as (_gate, worker):
        horse = worker.horse()
        os.kill(horse, signal.SIGSTOP)
        worker.signal(signal.SIGTERM)
        worker.await_line("told to end")
        for _ in range(2):
            time.sleep(1.1)  # RQ takes a further signal within a second for the one before
            worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert horse not in all_processes() or not parent_of(horse)
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert worker.log.count(" WARNING ") == 1
    assert snapshots.docora.status(link) == "scanning"
    assert snapshots.docora.job(link).get_status() is JobStatus.STARTED
    expire_heartbeats(snapshots.docora)
    assert snapshots.work().code == 0
    assert snapshots.docora.status(link) == "synced"
    assert sorted(snapshots.received().files) == ["a", "b"]


def test_two_children_work_at_the_same_time(snapshots: Snapshots) -> None:
    queue_two(snapshots)
    barrier = threading.Barrier(2, timeout=PATIENCE)
    seen: list[set[str]] = []

    def answer(_request: Request) -> int:
        barrier.wait()
        seen.append(names(snapshots))
        barrier.wait()
        return 200

    snapshots.receiver.answer = answer
    with running(snapshots, "--burst", "--concurrency", "2", "--name", "pair") as worker:
        assert worker.end() == 0
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert seen == [{"pair-1", "pair-2"}] * 2
    assert snapshots.docora.statuses() == {"synced": 2}
    assert names(snapshots) == set()


@pytest.mark.parametrize(
    ("arguments", "setting", "count"),
    [((), None, 5), ((), "2", 2), (("--concurrency", "3"), "2", 3)],
)
def test_docoras_own_setting_tells_how_many_jobs_run_at_the_same_time(
    snapshots: Snapshots, arguments: tuple[str, ...], setting: str | None, count: int
) -> None:
    with running(snapshots, *arguments, "--name", "w", SCAN_CONCURRENCY=setting) as worker:
        worker.await_ready(count)
        expected = {f"w-{number}" for number in range(1, count + 1)}
        eventually(lambda: names(snapshots) == expected, "all workers")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        eventually(lambda: worker.processes == [], "the end of all processes")


def test_a_child_that_is_killed_is_replaced(snapshots: Snapshots) -> None:
    with running(snapshots, "--concurrency", "2", "--name", "pair") as worker:
        worker.await_ready(2)
        without_name = signal.SIGRTMIN + 1
        for number, deadly in ((3, signal.SIGKILL), (4, without_name)):
            eventually(lambda: len(worker.children) == 2, "two children")
            first = min(worker.children)
            os.kill(first, deadly)
            worker.await_ready(number)
            assert first not in worker.children
        # They still work, both of them.
        barrier = threading.Barrier(2, timeout=PATIENCE)
        snapshots.receiver.answer = lambda _: barrier.wait() * 0 + 200
        queue_two(snapshots)
        eventually(lambda: snapshots.docora.statuses() == {"synced": 2}, "two snapshots")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        eventually(lambda: worker.processes == [], "the end of all processes")


def test_a_worker_that_is_killed_while_idle_takes_no_job_with_it(snapshots: Snapshots) -> None:
    with running(snapshots, "--verbose") as worker:
        worker.await_line("Scheduler for")
        await_waiting_worker(snapshots.docora)
        worker.signal(signal.SIGKILL)
        worker.process.wait(PATIENCE)
        link = add_link(snapshots)
        eventually(lambda: worker.processes == [], "the end of its scheduler")
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.work().code == 0
    assert snapshots.docora.status(link) == "synced"


def test_delayed_retries_are_run_when_their_time_has_come(snapshots: Snapshots) -> None:
    link = add_link(snapshots, retry_base_delay_ms=1)
    answers = [500, 200, 200]
    snapshots.receiver.answer = lambda _: answers.pop(0)
    with running(snapshots) as worker:
        eventually(lambda: snapshots.docora.status(link) == "synced", "a second try")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert answers == []
    assert "try 1 of 5: HTTP 500 on created a; tried again in " in worker.log
    assert sorted(snapshots.received().files) == ["a", "b"]


def test_each_worker_has_a_name_of_its_own(snapshots: Snapshots) -> None:
    with running(snapshots) as one, running(snapshots, "--name", "The_Worker-1.x") as other:
        for worker in (one, other):
            worker.await_ready()
        assert len(names(snapshots)) == 2
        assert "The_Worker-1.x" in names(snapshots)
