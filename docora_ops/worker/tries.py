"""The tries that RQ still gives a job."""

from __future__ import annotations

from rq.job import Job

_KEPT_DELAY = 10
"""Seconds until the next try of a job that has no delays of its own."""


class Tries:
    """The tries that a job has left: none without a job. RQ reads them after a failure."""

    def __init__(self, job: Job | None) -> None:
        self._job = job

    @property
    def left(self) -> int:
        """The number of tries after this one."""
        return 0 if self._job is None else self._job.retries_left or 0

    def end(self) -> None:
        """Makes this try the last one."""
        if self._job is not None:
            self._job.retries_left = 0

    def keep(self) -> None:
        """Makes sure that another try follows."""
        if self._job is not None:
            self._job.retries_left = max(self.left, 1)
            self._job.retry_intervals = self._job.retry_intervals or [_KEPT_DELAY]
