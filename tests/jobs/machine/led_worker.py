"""A worker that a test leads through a job step by step, in RQ's own calls."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.utils import now

from tests.support.docora import Docora
from tests.support.rows import TestLink


class GitError(Exception):
    """What the job of a link fails with."""


@dataclass
class LedWorker:
    """A worker with one job. `locks`: whether it holds the link's lock, as ours does."""

    docora: Docora
    locks: bool
    _worker: SimpleWorker = field(init=False)
    _job: Job = field(init=False)
    _queue: Queue = field(init=False)
    _execution: Execution | None = None
    _verdict: str | None = None
    _session: psycopg.Connection[Any] | None = None

    def __post_init__(self) -> None:
        self._worker = SimpleWorker(
            [self.docora.queue], connection=self.docora.redis, prepare_for_work=False
        )

    @property
    def job_id(self) -> str:
        """The job that it has taken."""
        return self._job.id

    def take(self) -> bool:
        """Pop a job from the queue, if one waits; it stands in the intermediate list then."""
        found = self._worker.dequeue_job_and_maintain_ttl(None)
        if found is None:
            return False
        self._job, self._queue = found
        return True

    def go_on(self, link: TestLink, verdicts: Iterator[str]) -> bool:
        """Take one step: begin, write the verdict, or end; whether there is another one."""
        if self._execution is None:
            return self._begin(link)
        if self._verdict is None:
            self._judge(link, next(verdicts))
            return True
        self._end(self._execution)
        return False

    def clean_up(self) -> None:
        """What each worker of RQ does now and then."""
        self._worker.clean_registries()  # type: ignore[no-untyped-call]

    def die(self) -> None:
        """Leave everything as it is, but for the lock, which Postgres releases."""
        if self._session is not None:
            self._session.execute("SELECT pg_advisory_unlock_all()")  # which close() does later
            self._session.close()

    def _begin(self, link: TestLink) -> bool:
        """Record that the job runs, lock the link and mark it; a job whose lock is held ends."""
        self._execution = self._worker.prepare_execution(self._job)
        self._worker.prepare_job_execution(self._job, remove_from_intermediate_queue=True)
        self._job.started_at = now()
        if self.locks and not self._lock(link):
            self._end(self._execution)
            return False
        self._write(link, "scanning")
        return True

    def _judge(self, link: TestLink, verdict: str) -> None:
        """Write into the row how it went, which RQ does not know yet."""
        if verdict == "pending_snapshot" and not self._job.retries_left:
            verdict = "failed"
        if verdict == "failed":
            self._job.retries_left = 0
        self._verdict = verdict
        self._write(link, verdict)

    def _end(self, execution: Execution) -> None:
        """Tell RQ."""
        if self._verdict in {None, "synced"}:
            self._worker._finalize_success(self._job, self._queue, execution, None)
        else:
            try:
                raise GitError
            except GitError:
                self._worker._finalize_failure(self._job, self._queue, execution, sys.exc_info())
        self.die()

    def _lock(self, link: TestLink) -> bool:
        self._session = psycopg.connect(self.docora.database_url, autocommit=True)
        row = self._session.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (link.job_id,)
        ).fetchone()
        assert row is not None
        return bool(row[0])

    def _write(self, link: TestLink, status: str) -> None:
        failed = status in {"failed", "pending_snapshot"}
        change = "retry_count = 0, last_scanned_at = now()"
        if status != "synced":
            change = f"retry_count = retry_count + {int(failed)}"
        self.docora.connection.execute(
            f"UPDATE app_repositories SET status = %s, last_error = %s, {change}"
            " WHERE app_id = %s AND repository_id = %s".encode(),
            (status, "git failed" if failed else None, *link.ids),
        )
