"""Drift: disagreement between database and queue, and its repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from docora_ops.links import LinkIds

EXAMPLES_SHOWN = 5
"""A report names so many examples of each kind of drift; it counts all of them."""


class DriftKind(StrEnum):
    """Kinds of disagreement between a link and its job."""

    LOST = "lost"  # the link is `pending_snapshot` and has no live job
    STUCK = "stuck"  # the link is `scanning` and has no live job
    ORPHAN = "orphan"  # the job is to be run, or failed, and its link is gone
    DUPLICATE = "duplicate"  # the job is in the queue's list twice, or in list and schedule
    STALE_ENTRY = "stale_entry"  # a list or registry names a job that is gone or elsewhere
    FAILED_LIVE = "failed_live"  # the link is `failed` and has a live job, which does no harm

    @property
    def is_drift(self) -> bool:
        """Tells whether it needs to be repaired."""
        return self is not DriftKind.FAILED_LIVE


@dataclass(frozen=True, slots=True)
class Drift(LinkIds):
    """One disagreement. The names are None where the app or the repository is gone."""

    job_id: str = field(init=False, default="")
    kind: DriftKind
    app_id: str
    repository_id: str
    app_name: str | None = None
    repository_name: str | None = None
    detail: str = ""  # where the job is in the queue, or why the link can't be repaired

    def __post_init__(self) -> None:
        object.__setattr__(self, "job_id", f"{self.app_id}-{self.repository_id}")


@dataclass(frozen=True)
class DriftReport:
    """The number of disagreements of each kind, with some examples."""

    counts: Mapping[DriftKind, int]
    examples: Mapping[DriftKind, Sequence[Drift]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Counts the disagreements that need to be repaired."""
        return sum(count for kind, count in self.counts.items() if kind.is_drift)


@dataclass(frozen=True, slots=True)
class Belonging:
    """Counts the jobs that were made for links, and the ones whose link does not exist."""

    jobs: int
    without_link: int
    is_docoras: bool = False  # its queue keeps failed jobs of deleted links, and nothing is removed

    @property
    def is_plausible(self) -> bool:
        """Tells whether some jobs have a link, and from 10 jobs of RQ on at least half of them."""
        if self.without_link == self.jobs:
            return not self.jobs
        return self.is_docoras or self.jobs < 10 or self.without_link * 2 <= self.jobs  # noqa: PLR2004

    def __str__(self) -> str:
        return f"{self.without_link} of {self.jobs} jobs in the queue have no link in this database"


class RepairOutcome(StrEnum):
    """Results of the repair of one disagreement, done or planned."""

    QUEUED = "queued"  # the link has a new job
    RESET = "reset"  # the link is pending: Docora's scheduler queues its job
    REMOVED = "removed"  # the job, or its needless entries, were removed
    LEFT_ALONE = "left_alone"  # the disagreement has ended, or a worker runs the job
    NOT_REPAIRED = "not_repaired"


@dataclass(frozen=True, slots=True)
class Repaired:
    """One disagreement and what was done about it."""

    drift: Drift
    outcome: RepairOutcome
    error_message: str | None = None


@dataclass(frozen=True)
class AppDrift:
    """The drift of one kind that one app has, and what was done about it."""

    app_id: str
    app_name: str | None  # None if the app is gone
    kind: DriftKind
    found: int
    counts: Mapping[RepairOutcome, int]


@dataclass(frozen=True)
class RepairResult:
    """The drift that a repair has found, and what it has done so far, or would do."""

    found: Mapping[DriftKind, int]
    counts: Mapping[RepairOutcome, int]
    by_app: Sequence[AppDrift]  # most drift first
    repaired: Sequence[Repaired]
    dry_run: bool = False

    @property
    def total(self) -> int:
        """Counts the disagreements found."""
        return sum(self.found.values())

    @property
    def completed(self) -> int:
        """Counts the disagreements that are repaired, left alone, or failed."""
        return len(self.repaired)
