"""The tries of a job: how many are left, and when the next one follows."""

from dataclasses import dataclass
from datetime import datetime

from redis.client import Pipeline
from rq.job import Job

from docora_ops.worker.rq_faults import OneStepRetry

_KEPT_DELAY = 10  # seconds until the next try of a job that has no delays of its own


class SnapshotJob(OneStepRetry):
    """A job whose next try follows at once if it was cut off."""

    was_cut_off = False

    # RQ sends one more heartbeat of a job that has ended, in a round trip of its own.
    def heartbeat(
        self, timestamp: datetime, ttl: int, pipeline: Pipeline | None = None, xx: bool = False
    ) -> None:
        """Sends a heartbeat in a pipeline, and none without."""
        if pipeline is not None:
            super().heartbeat(timestamp, ttl, pipeline, xx)

    # RQ delays each further try, also after one that counts as if it had not begun.
    def get_retry_interval(self) -> int:
        """Returns the seconds until the next try."""
        return 0 if self.was_cut_off else super().get_retry_interval()


@dataclass(frozen=True)
class Tries:
    """The tries that a job has left. RQ reads their number after a failure."""

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

    def give_back(self) -> None:
        """Has another try follow as if this one had not begun; with our workers, at once."""
        left = self.left + 1
        self.keep()
        self.job.retries_left = left
        if isinstance(self.job, SnapshotJob):
            self.job.was_cut_off = True

    def end(self) -> None:
        """Makes this try the last one."""
        self.job.retries_left = 0

    def keep(self) -> None:
        """Has another try follow, even if none is left."""
        self.job.retries_left = max(self.left, 1)
        self.job.retry_intervals = self.job.retry_intervals or [_KEPT_DELAY]
