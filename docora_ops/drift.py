"""What can be out of step between database and queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

EXAMPLES_SHOWN = 5
"""Findings of each kind that a report names; it counts them all."""


class DriftKind(StrEnum):
    """What is wrong with a link or its job."""

    LOST = "lost"
    """The link is `pending_snapshot` and has no live job."""
    STUCK = "stuck"
    """The link is `scanning` and has no live job: a waiting one would be run whatever it says."""
    ORPHAN = "orphan"
    """The job is there to be run, or failed, and its link is gone."""
    DUPLICATE = "duplicate"
    """The id of the job stands in the queue's list twice, or there and in the schedule."""
    STALE_ENTRY = "stale_entry"
    """A list or registry names a job that is gone, or that is in another state now."""
    FAILED_LIVE = "failed_live"
    """The link is `failed` and has a live job. Nothing needs to be mended."""

    @property
    def is_drift(self) -> bool:
        """Whether it is something to mend."""
        return self is not DriftKind.FAILED_LIVE


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. What is not known of the link, since it is gone, is None."""

    kind: DriftKind
    job_id: str
    app_id: str | None = None
    app_name: str | None = None
    repository_id: str | None = None
    repository_name: str | None = None
    """`owner/name`."""
    detail: str = ""
    """Where in the queue, or why it can't be mended."""


@dataclass(frozen=True)
class DriftReport:
    """All that is wrong, counted, with the first few of each kind."""

    counts: Mapping[DriftKind, int]
    examples: Mapping[DriftKind, Sequence[Finding]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many things there are to mend."""
        return sum(count for kind, count in self.counts.items() if kind.is_drift)


_JOBS_THAT_TELL = 10
"""From so many jobs on, more than half of them must have a link."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """Counts the jobs that were made for links, and the ones whose link does not exist."""

    jobs: int
    without_link: int

    @property
    def is_plausible(self) -> bool:
        """Whether the queue and the database look like those of one Docora."""
        if self.without_link == self.jobs:
            return not self.jobs
        return self.jobs < _JOBS_THAT_TELL or self.without_link * 2 <= self.jobs

    def __str__(self) -> str:
        if self.jobs == self.without_link == 1:
            return "the only job in the queue has no link in this database"
        if self.jobs == self.without_link:
            return f"none of the {self.jobs} jobs in the queue has a link in this database"
        return f"{self.without_link} of {self.jobs} jobs in the queue have no link in this database"


class Mending(StrEnum):
    """What became of one thing that was wrong, or would."""

    QUEUED = "queued"
    """The link has a fresh job."""
    REMOVED = "removed"
    """What was too much in the queue is gone."""
    LEFT_ALONE = "left_alone"
    """It is not wrong any more, or a worker has it in hand."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Mended:
    """One thing that was wrong, and what became of it."""

    finding: Finding
    outcome: Mending
    error_message: str | None = None


@dataclass(frozen=True)
class RepairResult:
    """What a repair has found, and what it has done so far, or would do."""

    found: Mapping[DriftKind, int]
    """How often each kind of drift was there."""
    counts: Mapping[Mending, int]
    """How many came to what."""
    mended: Sequence[Mended]
    dry_run: bool = False

    @property
    def total(self) -> int:
        """How many things there were to mend."""
        return sum(self.found.values())

    @property
    def completed(self) -> int:
        """How many of them are repaired, left alone, or failed."""
        return len(self.mended)

    @property
    def complete(self) -> bool:
        """Whether each has been seen to."""
        return self.completed >= self.total
