"""Bulk operations: their progress and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.links import Action, App, LinkFailure, Outcome, PlannedLink, count_succeeded


@dataclass(frozen=True)
class Progress:
    """The progress of a bulk operation in Redis, where Docora's dashboard reads it too."""

    operation_id: str
    total: int
    completed: int
    succeeded: int
    failed: int
    cancelled: bool

    @property
    def finished(self) -> bool:
        """Tells whether every link of the operation has an outcome."""
        return self.completed >= self.total


class OperationState(StrEnum):
    """The state of a bulk operation. `OWNER_GONE`: its runner has been silent for two minutes."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    OWNER_GONE = "owner_gone"


@dataclass(frozen=True)
class KnownOperation(Progress):
    """A bulk operation that Redis still knows."""

    state: OperationState
    last_step_at: datetime | None


@dataclass(frozen=True)
class BulkResult:
    """The result of a bulk operation so far."""

    action: Action
    operation_id: str | None
    total: int
    counts: Mapping[Outcome, int]
    by_app: Mapping[App, Mapping[Outcome, int]]
    failures: Sequence[LinkFailure] = ()
    cancelled: bool = False
    open_circuits_left_out: int | None = None  # links, with `--skip-open-circuits`
    deliveries_cleared: int = 0
    circuits_reset: int | None = None  # repositories, with `--reset-circuit`
    links: Sequence[PlannedLink] | None = None  # of a dry run

    @property
    def succeeded(self) -> int:
        """Counts the links that have a waiting job now."""
        return count_succeeded(self.counts)

    @property
    def completed(self) -> int:
        """Counts the links that have an outcome."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Counts the links that could not be queued."""
        return self.counts.get(Outcome.FAILED, 0)
