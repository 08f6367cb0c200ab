"""What may happen to a link without docora-ops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import psycopg
from rq import SimpleWorker
from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.utils import now

from tests.jobs.situation import Situation
from tests.support.docora import INTERMEDIATE, QUEUE, WIP, Docora
from tests.support.rows import TestLink

STATUSES = ("failed", "failed", "failed", "pending_snapshot", "scanning", "synced")
FUNCTION = "docora_ops.worker.snapshot"


class Others:
    """Everybody who has to do with links beside docora-ops."""

    def __init__(self, docora: Docora) -> None:
        self.docora = docora
        self.known: dict[str, TestLink] = {}
        self.latest = Situation.of(docora, ())


Happening = Callable[[Others, TestLink], object]


def enqueue(others: Others, link: TestLink, **options: Any) -> None:
    """As another producer of snapshot jobs does."""
    with suppress(DuplicateJobError):
        others.docora.queue.enqueue(
            FUNCTION, kwargs=asdict(link), job_id=link.job_id, description="other", **options
        )


def row_is_made_anew(others: Others, link: TestLink) -> None:
    with suppress(psycopg.errors.UniqueViolation):
        others.docora.link(*link.ids, "pending_snapshot")
        others.docora.age_links()


def row_becomes(status: str) -> Happening:
    return lambda others, link: others.docora.set_link(
        link, status=status, last_error="written", retry_count=3
    )


def job_is_left(status: JobStatus) -> Happening:
    """By a link that has failed."""

    def leave(others: Others, link: TestLink) -> None:
        others.docora.leave_job(link.job_id, status)
        row_becomes("failed")(others, link)

    return leave


def job_is_left_with_an_end(others: Others, link: TestLink) -> None:
    others.docora.leave_job(link.job_id, JobStatus.FINISHED)
    others.docora.redis.expire(Job.key_for(link.job_id), 300)


def enqueue_over_a_finished_job(others: Others, link: TestLink) -> None:
    """Whose time to live RQ then leaves to the new one."""
    job_is_left_with_an_end(others, link)
    enqueue(others, link)


def entries_are_left(others: Others, link: TestLink) -> None:
    for registry in (FailedJobRegistry, ScheduledJobRegistry):
        key = registry(QUEUE, connection=others.docora.redis).key
        others.docora.redis.zadd(key, {link.job_id: now().timestamp() + 3600})


def worker_takes_job(*statuses: str, ends: bool = False) -> Happening:
    """A worker takes the first job, in RQ's own calls, and writes these statuses of its link.

    Unless it `ends`, it is still at work, or was killed, when the last one is written.
    """

    def take(others: Others, link: TestLink) -> None:
        worker = SimpleWorker([others.docora.queue], connection=others.docora.redis)
        found = worker.dequeue_job_and_maintain_ttl(None)
        if found is None or not statuses:
            return
        job, queue = found
        execution = worker.prepare_execution(job)
        worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
        job.started_at = now()
        for status in statuses:
            others.docora.set_link(others.known[job.id], status=status, last_error="git failed")
        if not ends:
            return
        if statuses[-1] == "synced":
            worker._finalize_success(job, queue, execution, None)
            return
        if statuses[-1] == "failed":
            job.retries_left = 0
        try:
            raise OSError("git failed")
        except OSError:
            worker._finalize_failure(job, queue, execution, sys.exc_info())

    return take


def rq_cleans_up(others: Others, link: TestLink) -> None:
    others.docora.redis.delete(others.docora.queue.registry_cleaning_key)
    SimpleWorker([others.docora.queue], connection=others.docora.redis).clean_registries()  # type: ignore[no-untyped-call]


def heartbeats_expire(others: Others, link: TestLink) -> None:
    for member in others.latest.jobs[link.job_id].executions:
        others.docora.redis.zadd(WIP, {member: int(now().timestamp())}, xx=True)
        others.docora.redis.delete(f"rq:execution:{member}")


NEW_STATUSES = tuple(map(row_becomes, STATUSES))
ALL: tuple[Happening, ...] = (
    *(row_is_made_anew, *NEW_STATUSES, *map(job_is_left, JobStatus), job_is_left_with_an_end),
    *(enqueue, enqueue_over_a_finished_job, entries_are_left),
    *(worker_takes_job(), worker_takes_job("scanning"), worker_takes_job("scanning", "failed")),
    *(
        worker_takes_job("scanning", status, ends=True)
        for status in ("failed", "synced", "pending_snapshot")
    ),
    *(heartbeats_expire, rq_cleans_up),
    lambda others, link: others.docora.delete_link(link),
    lambda others, link: enqueue(others, link, unique=True),
    lambda others, link: others.docora.queue.enqueue_in(
        timedelta(hours=1), FUNCTION, job_id=link.job_id
    ),
    lambda others, link: others.docora.redis.lpush(others.docora.queue.key, link.job_id),
    lambda others, link: others.docora.redis.lpush(INTERMEDIATE, link.job_id),
    lambda others, link: others.docora.redis.delete(Job.key_for(link.job_id)),
    lambda others, link: others.docora.start_job(link.job_id),
    lambda others, link: others.docora.start_job(link.job_id, heartbeat=-30),
    lambda others, link: others.docora.hold_lock(link.job_id),
    lambda others, _: others.docora.connection.execute("SELECT pg_advisory_unlock_all()"),
    lambda others, _: others.docora.redis.flushdb(),
)
