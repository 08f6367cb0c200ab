"""A job is scheduled for its next try in one step, so that it is never in none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from rq.executions import Execution
from rq.job import Job, JobStatus

from docora_ops.errors import RedisError as LostRedisError
from docora_ops.errors import SnapshotRunningError
from docora_ops.links import Outcome
from docora_ops.queue import connect
from docora_ops.queue.redis_client import redis_errors
from docora_ops.worker.recovery import LinkRecovery
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.docora import QUEUE
from tests.support.proxy import Fault, Proxy
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import expire_heartbeats, has_live_job, make_delayed_jobs_due
from tests.worker.tries.test_killed_workers import begin


def test_cleaning_that_breaks_off_before_a_job_is_scheduled_again_does_not_lose_it(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3)
    begin(snapshots, link)
    docora = snapshots.docora
    expire_heartbeats(docora)

    def clean(url: str) -> None:
        settings = docora.settings.model_copy(update={"redis_url": SecretStr(url)})
        with connect(settings) as client, redis_errors(client):
            SnapshotWorker(snapshots.settings, client, "w").run_maintenance_tasks()

    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        plan = proxy.plan(f"rq:scheduled:{QUEUE}".encode(), Fault.LOSE_REQUEST)
        with pytest.raises(LostRedisError):
            clean(proxy.url)
        assert plan.reached.is_set()
    assert docora.status(link) == "pending_snapshot"
    docora.redis.delete(f"rq:clean_registries:{QUEUE}")
    clean(docora.redis_access.worker)
    assert has_live_job(docora, link)
    assert docora.row(link)["retry_count"] == 1


def test_a_process_that_is_killed_when_it_has_seen_to_the_next_try_does_not_double_it(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    with begun(snapshots) as (worker, job, execution):
        [queue] = worker.queues
        parents_copy = worker.job_class.fetch(job.id, worker.connection)
        worker.handle_job_failure(job, queue, execution=execution)
        make_delayed_jobs_due(docora)
        worker._queue_due_jobs()
        assert docora.waiting() == [job.id]
        worker.handle_job_failure(parents_copy, queue, execution=execution)
    assert docora.waiting() == [job.id]
    assert docora.registries(job.id) == set()
    assert docora.job_hash(job.id)["retries_left"] == b"1"


@contextmanager
def begun(snapshots: Snapshots) -> Iterator[tuple[SnapshotWorker, Job, Execution]]:
    """A worker, and the job that it has just begun."""
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3)
    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        snapshots.docora.redis.lrem(snapshots.docora.queue.key, 0, link.job_id)
        job = worker.job_class.fetch(link.job_id, client)
        execution = worker.prepare_execution(job)
        job.set_status(JobStatus.STARTED)
        yield worker, job, execution


def test_a_job_whose_process_was_killed_before_it_began_stands_somewhere_at_any_time(
    snapshots: Snapshots,
) -> None:
    with begun(snapshots) as (worker, job, execution):
        intermediate = f"rq:queue:{QUEUE}:intermediate"
        snapshots.docora.redis.rpush(intermediate, job.id)
        worker._job_process_was_killed(job, None, 9, None)
        assert snapshots.docora.redis.lrange(intermediate, 0, -1) == [job.id.encode()]
        worker.handle_job_failure(job, worker.queues[0], execution=execution)
        assert snapshots.docora.redis.lrange(intermediate, 0, -1) == []
        assert snapshots.docora.registries(job.id) == {f"rq:scheduled:{QUEUE}"}


def test_who_retries_a_link_just_when_its_job_that_never_began_is_given_up_keeps_off(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=1)
    docora = snapshots.docora
    intermediate = docora.queue.intermediate_queue
    docora.redis.lmove(docora.queue.key, intermediate.key)
    docora.redis.set(intermediate.get_first_seen_key(link.job_id), 1)
    outcomes = []

    class Recovery(LinkRecovery):
        """Somebody retries the link as soon as its failure is committed."""

        def count_killed_job(self, *arguments: Any, **options: Any) -> None:
            super().count_killed_job(*arguments, **options)
            assert docora.status(link) == "failed"
            try:
                outcomes.append(docora.actions().retry(link).outcome)
            except SnapshotRunningError:
                outcomes.append(Outcome.ALREADY_RUNNING)

    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        worker.recovery = Recovery(snapshots.settings, client)
        worker.run_maintenance_tasks()
    assert outcomes == [Outcome.ALREADY_RUNNING]
    assert docora.status(link) == "failed"
    assert docora.registries(link.job_id) == {f"rq:failed:{QUEUE}"}
    assert docora.redis.keys("rq:execution*") == []
    assert docora.redis.llen(intermediate.key) == 0
