"""The tries of a job: how many are left, and when the next one follows."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from redis import RedisError
from redis.client import Pipeline
from rq import Queue
from rq.job import Job, JobStatus

from docora_ops.database.link_scans import Ending, Refusal
from docora_ops.jobs import JobEnd
from docora_ops.links import LinkStatus

_MOST_HOST_FAULTS = 3
_KEPT_DELAY = 10  # seconds until the next try of a job that has no delays of its own


class SnapshotJob(Job):
    """A job that may be tried again without counting a try.

    The comment above each override says what RQ does in its place.

    pause: seconds until the next try; None if the present try counts.
    """

    pause: int | None = None
    _retry_pipeline: Pipeline | None = None

    # RQ sends one more heartbeat of a job that has ended, in a round trip of its own.
    def heartbeat(
        self, timestamp: datetime, ttl: int, pipeline: Pipeline | None = None, xx: bool = False
    ) -> None:
        """Adds a heartbeat to the pipeline. Without a pipeline, does nothing."""
        if pipeline is not None:
            super().heartbeat(timestamp, ttl, pipeline, xx)

    # RQ delays each further try, even after a try that does not count.
    def get_retry_interval(self) -> int:
        """Returns the seconds until the next try."""
        return super().get_retry_interval() if self.pause is None else self.pause

    # RQ 3.0 writes the status before it adds the job to the schedule. If the process is killed in
    # between, the job is in no list.
    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """Queues or schedules the next try, and sets the job's status, in one pipeline."""
        self._retry_pipeline = pipeline
        try:
            super().retry(queue, pipeline)
        finally:
            self._retry_pipeline = None

    # RQ's `retry` passes no pipeline.
    def set_status(self, status: JobStatus, pipeline: Pipeline | None = None) -> None:
        """Sets the status; within `SnapshotJob.retry`, in the pipeline of that call."""
        super().set_status(status, self._retry_pipeline if pipeline is None else pipeline)


@dataclass(frozen=True)
class Tries:
    """The tries that a job has left. They may change until RQ reads them, after a failure."""

    job: Job

    @property
    def left(self) -> int:
        """The number of tries after this one."""
        return self.job.retries_left or 0

    @property
    def outlook(self) -> str:
        """Tells when the next try is, for the log."""
        return (
            f"tried again in {self.job.get_retry_interval()} s" if self.left else "no further try"
        )

    def keep(self) -> None:
        """Makes sure that another try follows, even if none was left."""
        self._leave(max(self.left, 1))

    def give_back(self, pause: int = 0) -> None:
        """Takes this try back, so that it does not count.

        pause: seconds until our workers queue the next try.
        """
        self._leave(self.left + 1)
        if isinstance(self.job, SnapshotJob):
            self.job.pause = pause

    def _leave(self, tries: int) -> None:
        self.job.retries_left = tries
        self.job.retry_intervals = self.job.retry_intervals or [_KEPT_DELAY]

    def may_blame_host(self) -> bool:
        """Counts an error that is the host's fault. Returns True for the job's first two errors.

        From the third on, errors count as failures of the link, because a repository that is too
        large for the host must not stop all workers.
        """
        with suppress(RedisError):
            faults = self.job.connection.hincrby(self.job.key, "host_faults", 1)
            return faults < _MOST_HOST_FAULTS
        return True

    def settle(self, ending: Ending | None, limit: int, was: str | None = None) -> JobEnd:
        """Decides whether another try follows, and returns how the job ends.

        Another try follows if one is left, unless the link is failed or gone, or became synced
        during this try.

        Returns FAILED_AGAIN instead of FAILED if the link has more than `limit` failures, or was
        failed when the job was queued or when this try began.

        ending: the link after the failure. If None, it is unknown, and another try follows.
        limit: `MAX_RETRY_ATTEMPTS`.
        was: the link's status when this try began; None if the try may not have begun.
        """
        if ending is None:
            self.keep()
            return JobEnd.TRIED_AGAIN
        is_done = ending.status == LinkStatus.SYNCED and was is not None
        if self.left and not is_done and ending.status not in {LinkStatus.FAILED, Refusal.GONE}:
            return JobEnd.TRIED_AGAIN
        self.job.retries_left = 0
        if ending.status != LinkStatus.FAILED:
            return JobEnd.NOTHING_TO_DO
        was_failed = was == LinkStatus.FAILED or ending.retry_count > limit
        with suppress(RedisError):
            job = self.job
            field, created_at = job.connection.hmget(job.key, "was_failed", "created_at")
            # Another producer's job may have inherited the field from one with the same id.
            was_failed |= bool(field) and field == created_at
        return JobEnd.FAILED_AGAIN if was_failed else JobEnd.FAILED
