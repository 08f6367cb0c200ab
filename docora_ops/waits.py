"""Results of waiting for snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from docora_ops.bulk import Results
from docora_ops.folding import LONGEST, group_errors
from docora_ops.link_lists import ErrorGroup
from docora_ops.links import AppCount, LinkFailure


class WaitEnd(StrEnum):
    """The end of the wait for one link."""

    SYNCED = "synced"
    FAILED = "failed"
    GONE = "gone"
    LOST = "lost"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class LinkWait:
    """The result of the wait for one link. `status` is None if the link is gone."""

    result: WaitEnd
    status: str | None
    error_message: str | None
    seconds: float


@dataclass(frozen=True)
class JobCounts:
    """Counts the jobs of followed links, except those that were just changing their place."""

    waiting: int = 0
    running: int = 0
    delayed: int = 0
    lost: int = 0  # links without a live job

    @property
    def total(self) -> int:
        """Counts the jobs."""
        return self.waiting + self.running + self.delayed + self.lost


@dataclass(frozen=True)
class BulkWait:
    """The result of the wait for many links so far."""

    synced: int
    failed: int
    gone: int
    unfinished: int  # links without a result yet
    failed_links: Sequence[LinkFailure]
    seconds: float
    per_second: float = 0  # results since the wait began
    jobs_by_state: JobCounts = field(default_factory=JobCounts)  # of the links without a result
    suspended: bool = False  # the workers take no jobs
    lost_links: Sequence[LinkFailure] = ()
    unfinished_by_app: Sequence[AppCount] = ()  # once all have a result or time has run out
    failed_by_error: Sequence[ErrorGroup] = ()  # the failed links, once they are grouped

    def grouped(self) -> BulkWait:
        """Groups the failed links by error, with differing parts as `*`, most links first."""
        errors = ((each.app_id, each.error_message[: LONGEST + 1], 1) for each in self.failed_links)
        return replace(self, failed_by_error=group_errors(errors))

    @property
    def only_lost_left(self) -> bool:
        """Tells whether there are links without a result, and none of them has a live job."""
        return 0 < self.unfinished <= self.jobs_by_state.lost

    @property
    def results(self) -> Results:
        """The results to keep with the operation."""
        return Results(self.synced, self.failed, self.gone, self.unfinished)

    @property
    def total(self) -> int:
        """Counts the links that are or were followed."""
        return self.synced + self.failed + self.gone + self.unfinished
