"""A worker of Docora's own that is started beside a running one: ours takes no job meanwhile."""

import signal
import time

import pytest

from docora_ops.queue import connect
from docora_ops.worker import bullmq_watch
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.bullmq import Bullmq
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import Running, await_waiting_worker, held_worker, running

CAME = "a BullMQ worker of Docora is connected: takes no job until it is gone"
WENT = "no BullMQ worker is connected: goes on"


def nothing(_job_id: str) -> None:
    """Ends a job of BullMQ."""


def await_heartbeats(docora: Docora, count: int) -> None:
    """Until the only worker has sent so many heartbeats."""
    seen: set[object] = set()

    def look() -> bool:
        seen.add(docora.redis.hget("rq:worker:w", "last_heartbeat"))
        return len(seen) > count

    eventually(look, "so many heartbeats")


def await_look(worker: Running) -> None:
    """Until a busy worker has seen the other one."""

    def look() -> bool:
        worker.signal(signal.SIGALRM)  # RQ's alarm for the next heartbeat
        time.sleep(1)  # an alarm that comes while the worker does not wait for its job kills it
        return CAME in worker.log

    eventually(look, "a worker that has looked")


def queue_two(snapshots: Snapshots) -> list[TestLink]:
    links = list(snapshots.add_links(["One", "Two"]).values())
    for link in links:
        snapshots.queue(link)
    return links


def test_an_idle_worker_says_so_once_and_takes_no_job_until_it_is_alone_again(
    snapshots: Snapshots, bullmq: Bullmq
) -> None:
    docora = snapshots.docora
    with running(snapshots, "--name", "w") as worker:
        worker.await_ready()
        await_waiting_worker(docora)
        with bullmq.worker(nothing):
            worker.await_line(CAME)
            link, _ = snapshots.add_queued({"a": "1\n"})
            await_heartbeats(docora, 8)  # one a second, and a look each five
            assert docora.waiting() == [link.job_id]
            [shown] = docora.run("queue", "--json").data["workers"]
            assert (shown["state"], shown["silent_seconds"]) == ("suspended", None)
        worker.await_line(WENT)
        eventually(lambda: docora.status(link) == "synced", "the job")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
    assert (worker.log.count(CAME), worker.log.count(WENT)) == (1, 1)


def test_a_busy_worker_ends_its_job_and_takes_no_other_one(
    snapshots: Snapshots, bullmq: Bullmq
) -> None:
    docora = snapshots.docora
    first, second = queue_two(snapshots)
    with held_worker(snapshots, "--name", "w", file="a") as (gate, worker):
        with bullmq.worker(nothing):
            await_look(worker)
            gate.release()
            eventually(lambda: docora.status(first) == "synced", "the job in hand")
            await_heartbeats(docora, 3)
            assert docora.waiting() == [second.job_id]
            assert docora.status(second) == "pending_snapshot"
        eventually(lambda: docora.status(second) == "synced", "the other job")


def test_a_worker_beside_it_can_be_stopped(snapshots: Snapshots, bullmq: Bullmq) -> None:
    with running(snapshots) as worker:
        worker.await_ready()
        with bullmq.worker(nothing):
            worker.await_line(CAME)
            worker.signal(signal.SIGTERM)
            assert worker.end() == 0
    assert "ended, as told" in worker.log


def test_a_busy_worker_that_was_told_to_end_ends_with_its_job(
    snapshots: Snapshots, bullmq: Bullmq
) -> None:
    first, second = queue_two(snapshots)
    with (
        held_worker(snapshots, "--name", "w", file="a") as (gate, worker),
        bullmq.worker(nothing),
    ):
        await_look(worker)
        worker.signal(signal.SIGTERM)
        worker.await_line("told to end")
        gate.release()
        assert worker.end() == 0
    statuses = (snapshots.docora.status(first), snapshots.docora.status(second))
    assert statuses == ("synced", "pending_snapshot")


def test_a_burst_ends_and_says_that_jobs_may_wait(snapshots: Snapshots, bullmq: Bullmq) -> None:
    _, second = queue_two(snapshots)
    with (
        held_worker(snapshots, "--burst", file="a") as (gate, worker),
        bullmq.worker(nothing),
    ):
        await_look(worker)
        gate.release()
        assert worker.end() == 4
    assert "Error: a BullMQ worker of Docora was started: each link would be" in worker.log
    assert snapshots.docora.waiting() == [second.job_id]


def test_a_link_that_docoras_worker_scans_is_not_taken_for_left_behind(
    snapshots: Snapshots, bullmq: Bullmq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bullmq_watch, "INTERVAL", 0)
    docora = snapshots.docora
    worker = SnapshotWorker(snapshots.settings, connect(snapshots.settings), "w")
    link = docora.add_link("scanning", retry_count=0)
    with bullmq.worker(nothing):
        worker.run_maintenance_tasks()
        assert docora.status(link) == "scanning"
        assert docora.waiting() == []
    worker.run_maintenance_tasks()
    assert docora.status(link) == "pending_snapshot"
    assert docora.waiting() == [link.job_id]
