"""A worker that loses Redis says so in a line, and its scheduler too."""

import pytest

from tests.support.delivery_checks import link_row
from tests.support.docora import QUEUE
from tests.support.git_over_http import gate_at
from tests.support.proxy import PATIENCE, Fault, Proxy, eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import expire_heartbeats, make_delayed_jobs_due, running


def has_scheduler(snapshots: Snapshots) -> bool:
    return snapshots.docora.redis.exists("rq:scheduler-lock:snapshot-queue") == 1


def test_a_scheduler_that_loses_redis_says_it_in_one_line(snapshots: Snapshots) -> None:
    with (
        Proxy.before_redis(snapshots.docora.redis_access.worker) as proxy,
        running(snapshots, "--verbose", REDIS_URL=proxy.url) as worker,
    ):
        worker.await_line("Scheduler for snapshot-queue started")
        eventually(lambda: has_scheduler(snapshots), "a scheduler")
        proxy.__exit__()
        worker.await_line("Scheduler has lost Redis: ConnectionError")
        assert "Traceback" not in worker.log


def test_a_worker_that_loses_redis_at_the_end_of_a_job_says_it_in_one_line(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"})
    with (
        Proxy.before_redis(snapshots.docora.redis_access.worker) as proxy,
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


@pytest.mark.parametrize(("tries", "expected"), [(1, ("failed", 1)), (2, ("synced", 0))])
def test_a_job_that_loses_redis_before_it_begins_leaves_no_link_behind(
    snapshots: Snapshots, tries: int, expected: tuple[str, int]
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=tries, retry_base_delay_ms=0)
    with Proxy.before_redis(snapshots.docora.redis_access.worker) as proxy:
        # First the worker tells of its execution, then the job that it has begun.
        plan = proxy.plan(b"worker_name", Fault.LOSE_REQUEST, 2)
        with running(snapshots, "--burst", REDIS_URL=proxy.url) as worker:
            assert worker.end() == 0
        assert plan.reached.is_set()
    assert "has lost Redis: ConnectionError" in worker.log
    assert snapshots.docora.redis.llen(f"rq:queue:{QUEUE}:intermediate") == 0
    assert "Traceback" not in worker.log
    if tries > 1:
        make_delayed_jobs_due(snapshots.docora)
        assert snapshots.work().code == 0
    assert link_row(snapshots, link)[:2] == expected


def test_a_job_that_loses_redis_before_it_begins_and_once_more_is_not_lost(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3, retry_base_delay_ms=0)
    docora = snapshots.docora
    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        plans = [
            proxy.plan(b"worker_name", Fault.LOSE_REQUEST, 2),
            proxy.plan(b"failed_job_count", Fault.LOSE_REQUEST),
        ]
        with running(snapshots, "--burst", REDIS_URL=proxy.url) as worker:
            worker.end()
        assert [plan.reached.is_set() for plan in plans] == [True, True]
    assert docora.status(link) == "pending_snapshot"
    docora.redis.set(f"rq:queue:{QUEUE}:intermediate:first_seen:{link.job_id}", 1)
    expire_heartbeats(docora)
    for _ in range(2):
        make_delayed_jobs_due(docora)
        assert snapshots.work().code == 0
    assert docora.status(link) == "synced"
