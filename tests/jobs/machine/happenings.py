"""What may happen to a link without docora-ops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import psycopg
from rq import Retry
from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.utils import now

from tests.jobs.machine.led_worker import LedWorker
from tests.support.docora import INTERMEDIATE, QUEUE, WIP
from tests.support.rows import TestLink

if TYPE_CHECKING:
    from tests.jobs.machine.world import World

STATUSES = ("failed", "failed", "failed", "pending_snapshot", "scanning", "synced")
FUNCTION = "docora_ops.worker.snapshot"
_MOST_WORKERS = 3


Happening: TypeAlias = "Callable[[World, TestLink], None]"


def row_is_deleted(world: World, link: TestLink) -> None:
    world.docora.delete_link(link)


def row_is_made_anew(world: World, link: TestLink) -> None:
    with suppress(psycopg.errors.UniqueViolation):
        world.docora.link(*link.ids, "pending_snapshot")
        world.note_row(link)


def _row_becomes(status: str) -> Happening:
    def write(world: World, link: TestLink) -> None:
        world.docora.set_link(link, status=status, last_error="written", retry_count=3)

    write.__name__ = f"row_becomes_{status}"
    return write


NEW_STATUSES = tuple(map(_row_becomes, STATUSES))
TO_ROWS = (row_is_deleted, row_is_made_anew, *NEW_STATUSES)


def enqueue(world: World, link: TestLink, **options: Any) -> None:
    """As another producer of snapshot jobs does."""
    world.docora.queue.enqueue(
        FUNCTION, kwargs=asdict(link), job_id=link.job_id, description="other", **options
    )


def enqueue_with_tries_at_front(world: World, link: TestLink) -> None:
    enqueue(world, link, retry=Retry(2, [1]), at_front=True)


def enqueue_over_a_finished_job(world: World, link: TestLink) -> None:
    """Whose time to live RQ then leaves to the new one."""
    job_is_left_with_an_end(world, link)
    enqueue(world, link)


def enqueue_if_unique(world: World, link: TestLink) -> None:
    with suppress(DuplicateJobError):
        enqueue(world, link, unique=True)


def schedule(world: World, link: TestLink) -> None:
    world.docora.queue.enqueue_in(timedelta(hours=1), FUNCTION, job_id=link.job_id)


def push_id_at_head(world: World, link: TestLink) -> None:
    world.docora.redis.lpush(world.docora.queue.key, link.job_id)


def push_id_at_tail(world: World, link: TestLink) -> None:
    world.docora.redis.rpush(world.docora.queue.key, link.job_id)


BY_PRODUCERS = (
    enqueue,
    enqueue_with_tries_at_front,
    enqueue_over_a_finished_job,
    enqueue_if_unique,
    schedule,
    push_id_at_head,
    push_id_at_tail,
)


def _job_is_left(status: JobStatus) -> Happening:
    """By a link that has failed."""

    def leave(world: World, link: TestLink) -> None:
        world.docora.leave_job(link.job_id, status)
        _row_becomes("failed")(world, link)

    leave.__name__ = f"job_is_left_{status.value}"
    return leave


def job_is_left_with_an_end(world: World, link: TestLink) -> None:
    world.docora.leave_job(link.job_id, JobStatus.FINISHED)
    world.docora.redis.expire(Job.key_for(link.job_id), 300)


def job_is_deleted(world: World, link: TestLink) -> None:
    world.docora.redis.delete(Job.key_for(link.job_id))


def _entry_is_left(registry: type[Any]) -> Happening:
    def leave(world: World, link: TestLink) -> None:
        key = _key_of(registry, world)
        world.docora.redis.zadd(key, {link.job_id: now().timestamp() + 3600})

    leave.__name__ = f"entry_is_left_in_{registry.__name__}"
    return leave


def id_is_left_between_queue_and_worker(world: World, link: TestLink) -> None:
    world.docora.redis.lpush(INTERMEDIATE, link.job_id)


def execution_is_left(world: World, link: TestLink) -> None:
    world.docora.start_job(link.job_id, heartbeat=-30)


LEFT_BEHIND = (
    *map(_job_is_left, JobStatus),
    job_is_left_with_an_end,
    job_is_deleted,
    *map(_entry_is_left, (FailedJobRegistry, ScheduledJobRegistry)),
    id_is_left_between_queue_and_worker,
    execution_is_left,
)


def job_begins(world: World, link: TestLink) -> None:
    """Begins in a worker of which nothing more is heard."""
    world.docora.start_job(link.job_id)


def worker_takes_job(world: World, _: TestLink, *, locks: bool = True) -> None:
    worker = LedWorker(world.docora, locks)
    if len(world.led_workers) < _MOST_WORKERS and worker.take():
        world.led_workers.append(worker)


def worker_that_does_not_lock_takes_job(world: World, link: TestLink) -> None:
    worker_takes_job(world, link, locks=False)


def jobs_are_run(world: World, _: TestLink) -> None:
    """All that wait, one after the other."""
    for _jobs in range(len(world.latest.waiting)):
        worker = LedWorker(world.docora, locks=True)
        if worker.take():
            link = world.known[worker.job_id]
            while worker.go_on(link, world.verdicts):
                pass


def worker_goes_on(world: World, link: TestLink) -> None:
    """It begins, writes its verdict, or ends."""
    worker = world.worker_of(link)
    if worker is not None and not worker.go_on(world.known[worker.job_id], world.verdicts):
        world.led_workers.remove(worker)


def worker_that_rq_has_given_up_holds_lock(world: World, link: TestLink) -> None:
    """As one that was paused and wakes up; unless another one holds it."""
    world.docora.connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (link.job_id,)
    )


def such_workers_end(world: World, _: TestLink) -> None:
    world.docora.connection.execute("SELECT pg_advisory_unlock_all()")


def worker_is_killed(world: World, link: TestLink) -> None:
    worker = world.worker_of(link)
    if worker is not None:
        worker.die()
        world.led_workers.remove(worker)


def heartbeats_expire(world: World, link: TestLink) -> None:
    for member in world.latest.jobs[link.job_id].executions:
        world.docora.redis.zadd(WIP, {member: int(now().timestamp())}, xx=True)
        world.docora.redis.delete(f"rq:execution:{member}")


BY_WORKERS = (
    job_begins,
    jobs_are_run,
    jobs_are_run,
    worker_takes_job,
    worker_that_does_not_lock_takes_job,
    worker_goes_on,
    worker_goes_on,
    worker_that_rq_has_given_up_holds_lock,
    such_workers_end,
    worker_is_killed,
    heartbeats_expire,
)


def rq_cleans_up(world: World, _: TestLink) -> None:
    world.docora.redis.delete(world.docora.queue.registry_cleaning_key)
    LedWorker(world.docora, locks=False).clean_up()


def scheduled_jobs_are_due(world: World, _: TestLink) -> None:
    key = _key_of(ScheduledJobRegistry, world)
    for member in cast("list[bytes]", world.docora.redis.zrange(key, 0, -1)):
        world.docora.redis.zadd(key, {member: now().timestamp() - 1})
    scheduler = RQScheduler([world.docora.queue], connection=world.docora.redis)
    scheduler.acquire_locks()  # type: ignore[no-untyped-call]
    scheduler.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
    scheduler.release_locks()  # type: ignore[no-untyped-call]


def redis_loses_all(world: World, _: TestLink) -> None:
    world.docora.redis.flushdb()


def _key_of(registry: type[Any], world: World) -> str:
    return str(registry(QUEUE, connection=world.docora.redis).key)


BY_SERVERS = (rq_cleans_up, scheduled_jobs_are_due, redis_loses_all)
ALL = (*TO_ROWS, *BY_PRODUCERS, *LEFT_BEHIND, *BY_WORKERS, *BY_SERVERS)
