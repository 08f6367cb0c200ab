"""Drift: disagreement between database and queue, and its repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

EXAMPLES_SHOWN = 5
"""A report names so many examples of each kind of drift; it counts all of them."""
_ENOUGH_JOBS = 10
"""From so many jobs on, at least half of them must have a link."""


class DriftKind(StrEnum):
    """What is wrong with a link or its job."""

    LOST = "lost"
    """The link is `pending_snapshot` and has no live job."""
    STUCK = "stuck"
    """The link is `scanning` and has no live job."""
    ORPHAN = "orphan"
    """The job is to be run, or failed, and its link is gone."""
    DUPLICATE = "duplicate"
    """The job stands in the queue's list twice, or in the list and in the schedule."""
    STALE_ENTRY = "stale_entry"
    """A list or registry names a job that is gone, or that is in another state now."""
    FAILED_LIVE = "failed_live"
    """The link is `failed` and has a live job. Nothing needs to be repaired."""

    @property
    def is_drift(self) -> bool:
        """Whether it needs to be repaired."""
        return self is not DriftKind.FAILED_LIVE


@dataclass(frozen=True, slots=True)
class Drift:
    """One disagreement. The names are None where the app or the repository is gone."""

    kind: DriftKind
    app_id: str
    repository_id: str
    app_name: str | None = None
    repository_name: str | None = None
    detail: str = ""
    """Where the job stands in the queue, or why the link can't be repaired."""

    @property
    def job_id(self) -> str:
        """The fixed id of the link's job."""
        return f"{self.app_id}-{self.repository_id}"


@dataclass(frozen=True)
class DriftReport:
    """The number of disagreements of each kind, with some examples."""

    counts: Mapping[DriftKind, int]
    examples: Mapping[DriftKind, Sequence[Drift]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of disagreements that need to be repaired."""
        return sum(count for kind, count in self.counts.items() if kind.is_drift)


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
        return self.jobs < _ENOUGH_JOBS or self.without_link * 2 <= self.jobs

    def __str__(self) -> str:
        if self.jobs == self.without_link == 1:
            return "the only job in the queue has no link in this database"
        if self.jobs == self.without_link:
            return f"none of the {self.jobs} jobs in the queue has a link in this database"
        return f"{self.without_link} of {self.jobs} jobs in the queue have no link in this database"


class RepairOutcome(StrEnum):
    """What a repair did about one disagreement, or would do."""

    QUEUED = "queued"
    """The link has a new job."""
    REMOVED = "removed"
    """The job, or its needless entries, were removed."""
    LEFT_ALONE = "left_alone"
    """The disagreement has ended, or a worker runs the job."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Repaired:
    """One disagreement and what was done about it."""

    drift: Drift
    outcome: RepairOutcome
    error_message: str | None = None


@dataclass(frozen=True)
class RepairResult:
    """The drift that a repair has found, and what it has done so far, or would do."""

    found: Mapping[DriftKind, int]
    counts: Mapping[RepairOutcome, int]
    repaired: Sequence[Repaired]
    dry_run: bool = False

    @property
    def total(self) -> int:
        """The number of disagreements found."""
        return sum(self.found.values())

    @property
    def completed(self) -> int:
        """How many of them are repaired, left alone, or failed."""
        return len(self.repaired)

    @property
    def complete(self) -> bool:
        """Tells whether the repair has come to its end."""
        return self.completed >= self.total
