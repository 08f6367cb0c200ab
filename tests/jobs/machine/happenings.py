"""What may happen to a link without docora-ops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from itertools import cycle
from typing import Any

import psycopg
from rq import SimpleWorker
from rq.exceptions import DuplicateJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.utils import now

from tests.jobs.machine.situation import Situation
from tests.support.docora import INTERMEDIATE, QUEUE, WIP, Docora
from tests.support.rows import TestLink

STATUSES = ("failed", "failed", "failed", "pending_snapshot", "scanning", "synced")
FUNCTION = "docora_ops.worker.snapshot"
_MOST_WORKERS = 3


class Others:
    """Everybody who has to do with links beside docora-ops."""

    def __init__(self, docora: Docora) -> None:
        self.docora = docora
        self.known: dict[str, TestLink] = {}
        self.workers: list[LedWorker] = []
        self.verdicts = cycle(("failed", "synced", "pending_snapshot"))
        self.latest = Situation.of(docora, ())

    def worker_of(self, link: TestLink) -> LedWorker | None:
        """The worker that has the link's job, or else any."""
        mine = [worker for worker in self.workers if worker.job.id == link.job_id]
        return next(iter(mine or self.workers), None)


class LedWorker:
    """A worker that is led through one job step by step, in RQ's own calls.

    `locks`: whether it holds the link's lock, as ours does.
    """

    job: Job
    _execution: Execution | None = None
    _verdict: str | None = None
    _session: psycopg.Connection[Any] | None = None

    def __init__(self, docora: Docora, *, locks: bool) -> None:
        self._docora, self._locks = docora, locks
        self._worker = SimpleWorker([docora.queue], connection=docora.redis, prepare_for_work=False)

    def take(self) -> bool:
        """Pop a job from the queue, if one waits; it stands in the intermediate list then."""
        found = self._worker.dequeue_job_and_maintain_ttl(None)
        if found is None:
            return False
        self.job, self._queue = found
        return True

    def go_on(self, others: Others) -> bool:
        """Take one step: begin, write the verdict, or end; whether there is another one."""
        link = others.known[self.job.id]
        if self._execution is None:
            self._execution = self._worker.prepare_execution(self.job)
            self._worker.prepare_job_execution(self.job, remove_from_intermediate_queue=True)
            self.job.started_at = now()
            if self._locks and not self._lock():
                return self._end(self._execution)
            self._write(link, "scanning")
            return True
        if self._verdict is None:
            self._verdict = next(others.verdicts)
            if self._verdict == "pending_snapshot" and not self.job.retries_left:
                self._verdict = "failed"
            if self._verdict == "failed":
                self.job.retries_left = 0
            self._write(link, self._verdict)
            return True
        return self._end(self._execution)

    def clean_up(self) -> None:
        self._worker.clean_registries()  # type: ignore[no-untyped-call]

    def die(self) -> None:
        """Leave everything as it is, but for the lock, which Postgres releases."""
        if self._session is not None:
            self._session.execute("SELECT pg_advisory_unlock_all()")  # which close() does later
            self._session.close()

    def _end(self, execution: Execution) -> bool:
        if self._verdict in {None, "synced"}:
            self._worker._finalize_success(self.job, self._queue, execution, None)
        else:
            try:
                raise OSError("git failed")
            except OSError:
                self._worker._finalize_failure(self.job, self._queue, execution, sys.exc_info())
        self.die()
        return False

    def _lock(self) -> bool:
        self._session = psycopg.connect(self._docora.database_url, autocommit=True)
        row = self._session.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self.job.id,)
        ).fetchone()
        assert row is not None
        return bool(row[0])

    def _write(self, link: TestLink, status: str) -> None:
        failed = status in {"failed", "pending_snapshot"}
        change = "retry_count = 0, last_scanned_at = now()"
        if status != "synced":
            change = f"retry_count = retry_count + {int(failed)}"
        self._docora.connection.execute(
            f"UPDATE app_repositories SET status = %s, last_error = %s, {change}"
            " WHERE app_id = %s AND repository_id = %s".encode(),
            (status, "git failed" if failed else None, *link.ids),
        )


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


def worker_takes_job(others: Others, link: TestLink, *, locks: bool = True) -> None:
    worker = LedWorker(others.docora, locks=locks)
    if len(others.workers) < _MOST_WORKERS and worker.take():
        others.workers.append(worker)


def jobs_are_run(others: Others, link: TestLink) -> None:
    """All that wait, one after the other."""
    for _jobs in range(len(others.latest.waiting)):
        worker = LedWorker(others.docora, locks=True)
        if worker.take():
            while worker.go_on(others):
                pass


def worker_goes_on(others: Others, link: TestLink) -> None:
    """It begins, writes its verdict, or ends."""
    worker = others.worker_of(link)
    if worker is not None and not worker.go_on(others):
        others.workers.remove(worker)


def worker_is_killed(others: Others, link: TestLink) -> None:
    worker = others.worker_of(link)
    if worker is not None:
        worker.die()
        others.workers.remove(worker)


def woken_worker_holds_lock(others: Others, link: TestLink) -> None:
    """One that was paused until RQ gave it up; unless another one holds the lock."""
    others.docora.connection.execute(
        "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (link.job_id,)
    )


def heartbeats_expire(others: Others, link: TestLink) -> None:
    for member in others.latest.jobs[link.job_id].executions:
        others.docora.redis.zadd(WIP, {member: int(now().timestamp())}, xx=True)
        others.docora.redis.delete(f"rq:execution:{member}")


def rq_cleans_up(others: Others, link: TestLink) -> None:
    others.docora.redis.delete(others.docora.queue.registry_cleaning_key)
    LedWorker(others.docora, locks=False).clean_up()


NEW_STATUSES = tuple(map(row_becomes, STATUSES))
ALL: tuple[Happening, ...] = (
    *(row_is_made_anew, *NEW_STATUSES, *map(job_is_left, JobStatus), job_is_left_with_an_end),
    *(enqueue, enqueue_over_a_finished_job, entries_are_left, worker_takes_job, jobs_are_run),
    *(worker_goes_on, worker_goes_on, worker_is_killed, woken_worker_holds_lock),
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
    lambda others, link: worker_takes_job(others, link, locks=False),
    lambda others, _: others.docora.connection.execute("SELECT pg_advisory_unlock_all()"),
    lambda others, _: others.docora.redis.flushdb(),
)
