"""Bulk operations: their progress and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from docora_ops.links import Action, App, LinkFailure, Outcome, PlannedLink, count_succeeded


@dataclass(frozen=True)
class KeptFailures:
    """The links that an operation has left undone, as far as they were kept with it."""

    items: Sequence[LinkFailure] = ()
    total: int = 0

    @property
    def not_kept(self) -> int:
        """How many more there were."""
        return max(self.total - len(self.items), 0)


@dataclass(frozen=True)
class Progress:
    """A bulk operation as everybody can see it in Redis."""

    operation_id: str
    total: int
    completed: int
    succeeded: int
    failed: int
    cancelled: bool

    @property
    def finished(self) -> bool:
        """Whether every link of the operation has been seen to."""
        return self.completed >= self.total


class OperationState(StrEnum):
    """What a bulk operation is doing, as far as Redis can tell."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    OWNER_GONE = "owner_gone"


@dataclass(frozen=True)
class KnownOperation:
    """A bulk operation that is still remembered."""

    progress: Progress
    state: OperationState
    silence: timedelta | None
    """Time since its last step, if it can be told."""
    last_step_at: datetime | None


@dataclass(frozen=True)
class BulkResult:
    """What a bulk operation has done so far, or in all."""

    operation: Action
    operation_id: str | None
    total: int
    counts: Mapping[Outcome, int]
    by_app: Mapping[App, Mapping[Outcome, int]]
    failures: Sequence[LinkFailure] = ()
    cancelled: bool = False
    open_circuits_left_out: int | None = None
    """Matching links that were not selected, if open circuits were to be skipped."""
    deliveries_cleared: int = 0
    links: Sequence[PlannedLink] | None = None
    """The links one by one, of a dry run only."""

    @property
    def succeeded(self) -> int:
        """Links that now have a job waiting."""
        return count_succeeded(self.counts)

    @property
    def completed(self) -> int:
        """Links that have been seen to, whatever came of it."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Links that could not be queued."""
        return self.counts.get(Outcome.FAILED, 0)
