"""The states in which a job can be found, arranged as RQ leaves them.

`WAITING` and `RUNNING` are the live jobs; `MISPLACED` only read as if they waited. `FINISHED` are
RQ's records of jobs that finished, `STALE` the remains of other jobs that ended, `GONE` the entries
of no job, `UNREADABLE` the keys that hold no job.
"""

from collections.abc import Callable
from typing import Any

from rq.job import Job, JobStatus
from rq.rate_limit import RateLimit
from rq.registry import (
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    ScheduledJobRegistry,
)
from rq.results import Result
from rq.utils import now

from docora_ops.links import Outcome
from tests.support.docora import INTERMEDIATE, QUEUE, WIP, Docora
from tests.support.rows import TestLink

OTHER_QUEUE = "other-queue"

Arrange = Callable[[Docora, str], object]  # puts the job with this id into a state


def all_of(*parts: Arrange) -> Arrange:
    return lambda docora, job_id: [part(docora, job_id) for part in parts]


def left(status: JobStatus) -> Arrange:
    return lambda docora, job_id: docora.leave_job(job_id, status)


def reads(**fields: str) -> Arrange:
    return lambda docora, job_id: [
        docora.redis.hset(Job.key_for(job_id), name, value) for name, value in fields.items()
    ]


def entry_in(registry: type[Any]) -> Arrange:
    return lambda docora, job_id: docora.redis.zadd(
        registry(QUEUE, connection=docora.redis).key, {job_id: now().timestamp() + 3600}
    )


def no_entry_in(registry: type[Any]) -> Arrange:
    return lambda docora, job_id: docora.redis.zrem(
        registry(QUEUE, connection=docora.redis).key, job_id
    )


started: Arrange = Docora.start_job
scheduled: Arrange = Docora.schedule_job


def heartbeat_expired(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id, heartbeat=-30)


def not_in_the_list(docora: Docora, job_id: str) -> None:
    docora.redis.lrem(docora.queue.key, 0, job_id)


def expires(docora: Docora, job_id: str) -> None:
    docora.redis.expire(Job.key_for(job_id), 300)


def hash_gone(docora: Docora, job_id: str) -> None:
    docora.redis.delete(Job.key_for(job_id))


def in_the_intermediate_list(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.lmove(docora.queue.key, INTERMEDIATE, "RIGHT", "LEFT")


def on_another_queue(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    not_in_the_list(docora, job_id)
    reads(origin=OTHER_QUEUE)(docora, job_id)
    docora.redis.rpush(f"rq:queue:{OTHER_QUEUE}", job_id)


def rate_limited(docora: Docora, job_id: str) -> None:
    limit = RateLimit("github", 1)
    docora.enqueue("holds-the-slot", rate_limit=limit)
    job = docora.enqueue(job_id, rate_limit=limit)
    assert job.get_status() == JobStatus.RATE_LIMITED
    expires(docora, job_id)


def running_in_no_wip_registry(docora: Docora, job_id: str) -> None:
    """RQ leaves it so when a worker was paused for longer than its heartbeat, then went on."""
    docora.redis.zrem(WIP, docora.start_job(job_id).composite_key)


def results(docora: Docora, job_id: str) -> None:
    job = docora.leave_job(job_id, JobStatus.FINISHED)
    Result.create(job, Result.Type.SUCCESSFUL, ttl=500, return_value="old")
    Result.create_failure(job, ttl=500, exc_string="old")


def execution_expired_in_redis_only(docora: Docora, job_id: str) -> None:
    execution = docora.start_job(job_id)
    docora.redis.zadd(WIP, {execution.composite_key: now().timestamp() - 1})
    docora.redis.delete(execution.key)


def taken_by_a_worker_that_died(docora: Docora, job_id: str) -> None:
    docora.redis.rpush(INTERMEDIATE, job_id)
    docora.redis.set(f"{INTERMEDIATE}:first_seen:{job_id}", now().timestamp(), ex=86_400)


def fields_of_an_earlier_run(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    old = ("exc_info", "worker_name", "rate_limit_key", "meta", "started_at", "ended_at")
    numbers = ("number_of_retries", "rate_limit_concurrency", "enqueue_at_front")
    fields: dict[Any, Any] = {**dict.fromkeys(old, "old"), **dict.fromkeys(numbers, 1)}
    docora.redis.hset(Job.key_for(job_id), mapping=fields | {"dependency_ids": '["gone"]'})
    docora.redis.sadd(f"{Job.key_for(job_id)}:dependencies", "gone")


WAITING: dict[str, Arrange] = {
    "enqueued": Docora.enqueue,
    "enqueued over a failed job": all_of(left(JobStatus.FAILED), expires, Docora.enqueue),
    "enqueued, old execution expired": all_of(heartbeat_expired, Docora.enqueue),
    "in the intermediate list": in_the_intermediate_list,
    "on another queue": on_another_queue,
    "scheduled with a time to live": all_of(scheduled, expires),
    "scheduled after a failure": all_of(left(JobStatus.FAILED), scheduled),
    "deferred": left(JobStatus.DEFERRED),
    "ready to enqueue": all_of(left(JobStatus.READY_TO_ENQUEUE), entry_in(ReadyJobRegistry)),
    "rate limited": rate_limited,
    "rate limited, not registered": left(JobStatus.RATE_LIMITED),
}
RUNNING: dict[str, Arrange] = {
    "running": started,
    "running and enqueued again": all_of(started, Docora.enqueue),
    "running, another execution expired": all_of(heartbeat_expired, started),
    "running, marked failed": all_of(running_in_no_wip_registry, reads(status="failed")),
    "running, hash gone": all_of(started, hash_gone),
    "locked": Docora.hold_lock,
    "locked, job failed": all_of(left(JobStatus.FAILED), Docora.hold_lock),
    "locked, job waiting": all_of(Docora.enqueue, Docora.hold_lock),
}
FINISHED: dict[str, Arrange] = {
    "finished": left(JobStatus.FINISHED),
    "finished, expires soon": all_of(left(JobStatus.FINISHED), expires),
    "finished, not registered": all_of(left(JobStatus.FINISHED), no_entry_in(FinishedJobRegistry)),
    "finished, with results": results,
    "finished, execution left": all_of(heartbeat_expired, left(JobStatus.FINISHED)),
    "finished, failed entry": all_of(left(JobStatus.FINISHED), entry_in(FailedJobRegistry)),
}
STALE: dict[str, Arrange] = {
    "failed": left(JobStatus.FAILED),
    "stopped": left(JobStatus.STOPPED),
    "cancelled": left(JobStatus.CANCELED),
    "created": left(JobStatus.CREATED),
    "started, no execution": left(JobStatus.STARTED),
    "started, heartbeat expired": heartbeat_expired,
    "started, heartbeat expired, execution listed": execution_expired_in_redis_only,
    "several executions": all_of(heartbeat_expired, heartbeat_expired),
    "deferred and ready entry of a failed job": all_of(
        left(JobStatus.FAILED), entry_in(DeferredJobRegistry), entry_in(ReadyJobRegistry)
    ),
    "taken by a worker that died, failed": all_of(
        left(JobStatus.FAILED), taken_by_a_worker_that_died
    ),
    "fields of an earlier run": fields_of_an_earlier_run,
    "enqueued, reads failed": all_of(Docora.enqueue, reads(status="failed")),
}
GONE: dict[str, Arrange] = {
    "no job": all_of(),
    "in the list, hash gone": all_of(Docora.enqueue, hash_gone),
    "failed entry, hash gone": entry_in(FailedJobRegistry),
    "scheduled entry, hash gone": entry_in(ScheduledJobRegistry),
    "taken by a worker that died, hash gone": taken_by_a_worker_that_died,
    "results, hash gone": all_of(results, hash_gone, no_entry_in(FinishedJobRegistry)),
}
MISPLACED: dict[str, Arrange] = {
    "queued, in no list": left(JobStatus.QUEUED),
    "enqueued over a failed job, then lost": all_of(
        left(JobStatus.FAILED), Docora.enqueue, not_in_the_list
    ),
    "scheduled, not registered": left(JobStatus.SCHEDULED),
    "deferred, not registered": all_of(left(JobStatus.DEFERRED), no_entry_in(DeferredJobRegistry)),
    "ready, not registered": left(JobStatus.READY_TO_ENQUEUE),
}
UNREADABLE: dict[str, Arrange] = {
    "job is a string": lambda docora, id_: docora.redis.set(Job.key_for(id_), "x"),
    "executions are a string": lambda docora, id_: docora.redis.set(f"rq:executions:{id_}", "x"),
}
# Not live, though their ids stand in the list: they stand there twice once the jobs are replaced.
IN_THE_LIST_ALREADY = {"enqueued, reads failed", "in the list, hash gone"}
_STATES_OF: dict[Outcome, dict[str, Arrange]] = {
    Outcome.QUEUED: GONE | FINISHED,
    Outcome.ALREADY_QUEUED: WAITING,
    Outcome.ALREADY_RUNNING: RUNNING,
    Outcome.REPLACED_STALE: STALE | MISPLACED,
    Outcome.NOT_QUEUED: UNREADABLE,
}
STATES = {name: (do, outcome) for outcome, all_ in _STATES_OF.items() for name, do in all_.items()}
"""Every state, and what becomes of a link whose job is in it."""


def add_link_in_each_state(docora: Docora, app_id: str, status: str) -> dict[str, TestLink]:
    """Links with two delivered files, by the state of their jobs."""
    links = {}
    for number, (name, (arrange, _)) in enumerate(STATES.items()):
        links[name] = docora.link(app_id, docora.add_repository(f"octo/{number}"), status)
        docora.add_deliveries(links[name], 2)
        arrange(docora, links[name].job_id)
    return links
