"""Results of waiting for snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from docora_ops.links import LinkFailure


class WaitEnd(StrEnum):
    """How the wait for the snapshot of one link has ended."""

    SYNCED = "synced"
    FAILED = "failed"
    GONE = "gone"
    LOST = "lost"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class LinkWait:
    """What the wait for one link has shown. `status`: None where the link is gone."""

    end: WaitEnd
    status: str | None
    error: str | None
    seconds: float


@dataclass(frozen=True)
class JobCounts:
    """Where the jobs of links that are followed stood at the last look.

    A job that was just changing its place is in none of the counts.
    """

    waiting: int = 0
    running: int = 0
    delayed: int = 0
    lost: int = 0
    """Links without a live job."""


@dataclass(frozen=True)
class BulkWait:
    """What the wait for many links has shown so far."""

    synced: int
    failed: int
    gone: int
    running: int
    """Links that have not ended yet."""
    failures: Sequence[LinkFailure]
    seconds: float
    jobs: JobCounts = field(default_factory=JobCounts)
    """Where the jobs of those that have not ended stand."""

    @property
    def only_lost_left(self) -> bool:
        """Whether nobody works on any of the links that have not ended."""
        return 0 < self.running <= self.jobs.lost

    @property
    def total(self) -> int:
        """How many links have been followed."""
        return self.synced + self.failed + self.gone + self.running
