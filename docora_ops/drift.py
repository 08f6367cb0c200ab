"""Drift: disagreement between database and queue, and its repair."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import islice

from docora_ops.links import LinkIds

EXAMPLES_SHOWN = 5  # of each kind of drift, in a report


class DriftKind(StrEnum):
    """Kinds of disagreement between a link and its job."""

    # The link is `pending_snapshot` and has no live job, or it is failed or due, and its job reads
    # as waiting where no worker takes it.
    LOST = "lost"
    STUCK = "stuck"  # the link is `scanning` and has no live job
    ORPHAN = "orphan"  # the job is to be run, or failed, and its link is gone
    DUPLICATE = "duplicate"  # the job is in the queue's list twice, or in list and schedule
    STALE_ENTRY = "stale_entry"  # a list or registry names a job that is gone or elsewhere


@dataclass(frozen=True, slots=True)
class Drift(LinkIds):
    """One disagreement. The names are None where the app or the repository is gone."""

    job_id: str = field()
    kind: DriftKind
    app_id: str
    repository_id: str
    app_name: str | None = None
    repository_name: str | None = None
    detail: str = ""  # where the job is in the queue, or why the link can't be repaired


@dataclass(frozen=True)
class DriftReport:
    """All disagreements that were found."""

    drifts: Sequence[Drift]

    @cached_property
    def found(self) -> Mapping[DriftKind, int]:
        """Counts the disagreements of each kind."""
        counts = Counter(drift.kind for drift in self.drifts)
        return {kind: counts[kind] for kind in DriftKind}

    @property
    def total(self) -> int:
        """Counts the disagreements."""
        return len(self.drifts)

    def examples(self, of_each_kind: int = EXAMPLES_SHOWN) -> list[Drift]:
        """Returns some disagreements of each kind."""
        of_kind = ((each for each in self.drifts if each.kind is kind) for kind in DriftKind)
        return [drift for drifts in of_kind for drift in islice(drifts, of_each_kind)]


@dataclass(frozen=True, slots=True)
class Belonging:
    """Counts the jobs that were made for links, and the ones whose link does not exist."""

    jobs: int
    without_link: int
    keeps_deleted: bool = False  # the queue keeps failed jobs of deleted links: any share is fine

    @property
    def is_plausible(self) -> bool:
        """Tells whether at least one job has a link. Of 10 or more RQ jobs, half must have one."""
        if self.without_link == self.jobs:
            return not self.jobs
        return self.keeps_deleted or self.jobs < 10 or self.without_link * 2 <= self.jobs  # noqa: PLR2004

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
class RepairResult(DriftReport):
    """What a repair has done so far, or would do, about the drift that it found."""

    repaired: Sequence[Repaired] = ()
    dry_run: bool = False

    @property
    def counts(self) -> Mapping[RepairOutcome, int]:
        """Counts what was done."""
        return Counter(item.outcome for item in self.repaired)

    @property
    def by_app(self) -> Sequence[AppDrift]:
        """The drift of each app and kind, most first."""
        found = Counter((drift.app_id, drift.app_name, drift.kind) for drift in self.drifts)
        done: dict[tuple[str, DriftKind], Counter[RepairOutcome]] = {}
        for item in self.repaired:
            done.setdefault((item.drift.app_id, item.drift.kind), Counter())[item.outcome] += 1
        return [
            AppDrift(app_id, app_name, kind, count, done.get((app_id, kind), {}))
            for (app_id, app_name, kind), count in found.most_common()
        ]

    @property
    def completed(self) -> int:
        """Counts the disagreements that are repaired, left alone, or failed."""
        return len(self.repaired)
