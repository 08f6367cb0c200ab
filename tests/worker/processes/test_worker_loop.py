"""The loop of a worker goes on through what is not its fault, and says when it does not."""

import pytest
import redis
from rq import Worker

from docora_ops.queue import connect
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.delivery_checks import link_row
from tests.support.docora import QUEUE
from tests.support.proxy import Fault, Proxy
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import expire_heartbeats, make_delayed_jobs_due, running


def test_a_busy_worker_looks_after_links_of_killed_ones_whatever_becomes_of_its_heartbeat(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_link({"a": "1"})
    execution = docora.start_job(link.job_id)
    left = docora.add_link("scanning", retry_count=0)
    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        worker.register_birth()
        worker.maintain_heartbeats(docora.job(link), execution)
        assert docora.row(left)["retry_count"] == 1
        assert docora.waiting() == [left.job_id]

        def refuse(*_: object) -> None:
            raise redis.TimeoutError

        monkeypatch.setattr(Worker, "maintain_heartbeats", refuse)
        worker.maintain_heartbeats(docora.job(link), execution)
    assert "no heartbeat: TimeoutError" in caplog.text


def test_a_job_that_can_not_be_read_keeps_up_none_behind_it(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    docora.enqueue("poison")
    docora.redis.hset("rq:job:poison", "created_at", "not a moment")
    link, _ = snapshots.add_queued({"a": "1"})
    worked = snapshots.work()
    assert worked.code == 0
    assert "job poison can't be read: ValueError" in worked.stderr
    assert docora.status(link) == "synced"
    assert docora.waiting() == []
    assert docora.redis.llen(f"rq:queue:{QUEUE}:intermediate") == 0


def test_a_job_that_loses_redis_before_it_begins_and_once_more_is_not_lost(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3, retry_base_delay_ms=0)
    docora = snapshots.docora
    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        # First the worker tells of its execution, then the job that it has begun.
        plans = [
            proxy.plan(b"worker_name", Fault.LOSE_REQUEST, 2),
            proxy.plan(b"failed_job_count", Fault.LOSE_REQUEST),
        ]
        with running(snapshots, "--burst", REDIS_URL=proxy.url) as worker:
            worker.end()
        assert [plan.reached.is_set() for plan in plans] == [True, True]
    assert "it could not be run: ConnectionError" in worker.log
    assert docora.status(link) == "pending_snapshot"
    docora.redis.set(f"rq:queue:{QUEUE}:intermediate:first_seen:{link.job_id}", 1)
    expire_heartbeats(docora)
    for _ in range(2):
        make_delayed_jobs_due(docora)
        assert snapshots.work().code == 0
    assert link_row(snapshots, link) == ("synced", 0, None)
