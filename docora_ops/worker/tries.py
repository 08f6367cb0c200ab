"""How often RQ will still try a job."""

from __future__ import annotations

from rq import get_current_job
from rq.job import Job
from rq.timeouts import JobTimeoutException

__all__ = ["JobTimeoutException", "Tries"]

_KEPT_DELAY = 10
"""Seconds until the next try of a job that has no delays of its own."""


class Tries:
    """The tries that a job has left. RQ decides by them what a failure of this moment leads to."""

    def __init__(self, job: Job | None) -> None:
        self._job = job

    @classmethod
    def of_current_job(cls) -> Tries:
        """Of the job that this process is running; none, if it runs none."""
        return cls(get_current_job())

    @property
    def left(self) -> int:
        """How many there are after this one."""
        return 0 if self._job is None else self._job.retries_left or 0

    def end(self) -> None:
        """This was the last one."""
        if self._job is not None:
            self._job.retries_left = 0

    def keep(self) -> None:
        """There will be another one in any case."""
        if self._job is not None:
            self._job.retries_left = max(self.left, 1)
            self._job.retry_intervals = self._job.retry_intervals or [_KEPT_DELAY]
