"""Jobs that somebody will run, or is running, in all the ways in which RQ has them stand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rq.job import Job, JobStatus
from rq.rate_limit import RateLimit
from rq.registry import ReadyJobRegistry, StartedJobRegistry
from rq.utils import now

from tests.support.docora import QUEUE, Docora

OTHER_QUEUE = "other-queue"

Arrange = Callable[[Docora, str], object]


def enqueued(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)


def enqueued_with_a_ttl(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.expire(Job.key_for(job_id), 300)


def enqueued_over_a_failed_job(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.redis.expire(Job.key_for(job_id), 300)
    docora.enqueue(job_id)


def in_the_list_though_it_reads_failed(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id).set_status(JobStatus.FAILED)


def in_the_list_though_its_old_execution_has_expired(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id, heartbeat=-30)
    docora.enqueue(job_id)


def in_the_hand_of_a_worker(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.lmove(docora.queue.key, f"{docora.queue.key}:intermediate", "RIGHT", "LEFT")


def on_another_queue(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.lrem(docora.queue.key, 0, job_id)
    docora.redis.hset(Job.key_for(job_id), "origin", OTHER_QUEUE)
    docora.redis.rpush(f"rq:queue:{OTHER_QUEUE}", job_id)


def scheduled(docora: Docora, job_id: str) -> None:
    docora.schedule_job(job_id)


def scheduled_with_a_ttl(docora: Docora, job_id: str) -> None:
    docora.schedule_job(job_id)
    docora.redis.expire(Job.key_for(job_id), 300)


def to_be_tried_again_after_a_failure(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.schedule_job(job_id)


def deferred(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.DEFERRED)


def ready_to_enqueue(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.READY_TO_ENQUEUE)
    ready = ReadyJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zadd(ready, {job_id: now().timestamp()})


def rate_limited(docora: Docora, job_id: str) -> None:
    limit = RateLimit("github", 1)
    docora.enqueue("holds-the-slot", rate_limit=limit)
    job = docora.enqueue(job_id, rate_limit=limit)
    assert job.get_status() == JobStatus.RATE_LIMITED
    docora.redis.expire(Job.key_for(job_id), 300)


WAITING: dict[str, Arrange] = {
    "enqueued": enqueued,
    "enqueued with a time to live": enqueued_with_a_ttl,
    "enqueued over a failed job": enqueued_over_a_failed_job,
    "enqueued, reads failed": in_the_list_though_it_reads_failed,
    "enqueued, old execution expired": in_the_list_though_its_old_execution_has_expired,
    "in the hand of a worker": in_the_hand_of_a_worker,
    "on another queue": on_another_queue,
    "scheduled": scheduled,
    "scheduled with a time to live": scheduled_with_a_ttl,
    "to be tried again after a failure": to_be_tried_again_after_a_failure,
    "deferred": deferred,
    "ready to enqueue": ready_to_enqueue,
    "rate limited": rate_limited,
}
every_waiting = pytest.mark.parametrize("arrange", WAITING.values(), ids=WAITING.keys())


def running(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)


def running_and_enqueued_again(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)
    docora.enqueue(job_id)


def running_while_another_execution_has_expired(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id, heartbeat=-30)
    docora.start_job(job_id)


def running_and_in_no_wip_registry(docora: Docora, job_id: str) -> None:
    """As RQ leaves it when a worker was paused for longer than its heartbeat, then went on."""
    execution = docora.start_job(job_id)
    wip = StartedJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zrem(wip, execution.composite_key)


def running_and_marked_failed(docora: Docora, job_id: str) -> None:
    running_and_in_no_wip_registry(docora, job_id)
    Job.fetch(job_id, connection=docora.redis).set_status(JobStatus.FAILED)


def running_though_its_hash_was_deleted(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)
    docora.redis.delete(Job.key_for(job_id))


def running_from_another_queue(docora: Docora, job_id: str) -> None:
    execution = docora.start_job(job_id)
    docora.redis.hset(Job.key_for(job_id), "origin", OTHER_QUEUE)
    ours, theirs = (
        StartedJobRegistry(name, connection=docora.redis).key for name in (QUEUE, OTHER_QUEUE)
    )
    docora.redis.zrem(ours, execution.composite_key)
    docora.redis.zadd(theirs, {execution.composite_key: now().timestamp() + 60})
    docora.redis.delete(execution.key)


def locked_with_a_failed_job(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.hold_lock(job_id)


def locked_with_a_waiting_job(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.hold_lock(job_id)


RUNNING: dict[str, Arrange] = {
    "running": running,
    "running and enqueued again": running_and_enqueued_again,
    "running, another execution expired": running_while_another_execution_has_expired,
    "running, in no wip registry": running_and_in_no_wip_registry,
    "running, marked failed": running_and_marked_failed,
    "running, hash deleted": running_though_its_hash_was_deleted,
    "running from another queue": running_from_another_queue,
    "locked": Docora.hold_lock,
    "locked, job failed": locked_with_a_failed_job,
    "locked, job waiting": locked_with_a_waiting_job,
}
every_running = pytest.mark.parametrize("arrange", RUNNING.values(), ids=RUNNING.keys())
