"""A worker that loses Redis says so in a line, and its scheduler too."""

from __future__ import annotations

from tests.proxy import PATIENCE, Proxy, eventually
from tests.snapshots import Snapshots
from tests.worker.running import running
from tests.worker.upstream_http import gate_at


def has_scheduler(snapshots: Snapshots) -> bool:
    return snapshots.docora.redis.exists("rq:scheduler-lock:snapshot-queue") == 1


def test_a_scheduler_that_loses_redis_says_it_in_one_line(snapshots: Snapshots) -> None:
    with (
        Proxy.before_redis(snapshots.docora.redis_url) as proxy,
        running(snapshots, REDIS_URL=proxy.url) as worker,
    ):
        worker.await_line("Scheduler for snapshot-queue started")
        eventually(lambda: has_scheduler(snapshots), "a scheduler")
        proxy.__exit__()
        worker.await_line("Scheduler has lost Redis: ConnectionError")
        assert "Traceback" not in worker.log


def test_a_worker_that_loses_redis_at_the_end_of_a_job_says_it_in_one_line(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    snapshots.queue(link)
    with (
        Proxy.before_redis(snapshots.docora.redis_url) as proxy,
        gate_at(snapshots.receiver) as gate,
        running(snapshots, "--burst", REDIS_URL=proxy.url) as worker,
    ):
        gate.wait()
        proxy.__exit__()
        gate.release()
        assert worker.process.wait(PATIENCE) == 5
    assert "found an unhandled exception, quitting... (ConnectionError)" in worker.log
    assert "Traceback" not in worker.log
    assert snapshots.docora.status(link) == "synced"
