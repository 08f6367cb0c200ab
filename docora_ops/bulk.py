"""Bulk operations: their options, progress and results, and the wait for snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from docora_ops.link_lists import ErrorGroup
from docora_ops.links import (
    Action,
    App,
    AppCount,
    LinkFailure,
    Outcome,
    PlannedLink,
    count_succeeded,
)

BATCH_SIZE = 500
"""Links that are locked, queued and committed together."""
_RESULTS_OF_A_SHARE = 20


@dataclass(frozen=True)
class Progress:
    """The progress of a bulk operation in Redis, where Docora's dashboard reads it too."""

    operation_id: str
    total: int
    completed: int
    put_to_work: int
    not_queued: int
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


class StoppedBy(StrEnum):
    """The reason why an operation has left links as they were."""

    CANCELLED = "cancelled"  # by another command, or on the dashboard
    INTERRUPTED = "interrupted"  # by a signal, or its generator was closed
    LOST_SERVER = "lost_server"
    MAX_FAILURES = "max_failures"
    TIMEOUT = "timeout"
    LOST_JOBS = "lost_jobs"  # all links in flight have lost their jobs


@dataclass(frozen=True)
class Results:
    """The results of an operation's snapshots, as far as they were awaited."""

    synced: int
    failed: int
    gone: int
    unfinished: int


@dataclass(frozen=True)
class KnownOperation(Progress):
    """A bulk operation that Redis still knows. Without `who`, docora-ops has not started it."""

    state: OperationState
    last_step_at: datetime | None
    last_step_seconds: int | None  # since then, by the clock of Redis
    who: str | None
    command: str | None
    selection: Mapping[str, str | int | bool | list[str]]
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None


@dataclass(frozen=True)
class MaxFailures:
    """The snapshots that may fail again: a number, or a share of all results in percent."""

    number: int
    is_percent: bool = False

    def __str__(self) -> str:
        """Returns the limit as it is typed."""
        return f"{self.number}%" if self.is_percent else str(self.number)

    def is_exceeded(self, failed: int, synced: int) -> bool:
        """Tells whether more have failed. A share counts from 20 results on."""
        if not self.is_percent:
            return failed > self.number
        results = failed + synced
        return results >= _RESULTS_OF_A_SHARE and failed * 100 > self.number * results


@dataclass(frozen=True)
class ChangeOptions:
    """How links are retried or resynced. The last four options are for bulk operations."""

    front: bool = False  # queue ahead of all waiting jobs
    reset_circuit: bool = False  # also close the circuit of each repository
    update: bool = False  # a resync marks the delivery records instead of deleting them
    dry_run: bool = False  # only find out what would happen
    in_flight: int | None = None  # the most snapshots in flight; waits for all of them
    max_failures: MaxFailures | None = None  # with `in_flight`: queue no more beyond that
    wait: bool = False  # wait for the snapshots
    timeout: float | None = None  # seconds after which the wait ends; the jobs go on

    @property
    def is_paced(self) -> bool:
        """Tells whether a link is queued only when another one has its result."""
        return self.in_flight is not None and not self.dry_run

    @property
    def recorded(self) -> dict[str, object]:
        """The options for an audit entry."""
        most = self.max_failures
        return {
            "front": self.front,
            "reset_circuit": self.reset_circuit,
            "in_flight": self.in_flight,
            "max_failures": most and (str(most) if most.is_percent else most.number),
            "update": self.update,
        }


NO_OPTIONS = ChangeOptions()


@dataclass(frozen=True)
class BulkResult:
    """The result of a bulk operation so far. `by_app`, `failures` and `links` grow with it."""

    action: Action
    operation_id: str | None
    total: int
    counts: Mapping[Outcome, int]
    by_app: Mapping[App, Mapping[Outcome, int]]
    failures: Sequence[LinkFailure] = ()
    cancelled: bool = False
    open_circuits_left_out: int | None = None  # links, with `--circuit closed`
    deliveries_cleared: int = 0  # deleted or, with `update`, marked
    update: bool = False  # of a resync
    circuits_reset: int | None = None  # repositories, with `--reset-circuit`
    circuits_held: int = 0  # repositories whose circuit could not be reset
    left_to_operations: Mapping[str, int] = field(default_factory=dict)
    """Links that `schedule` leaves to operations with `--in-flight`, by operation id."""
    links: Sequence[PlannedLink] | None = None  # of a dry run
    in_flight: int | None = None  # the most links in flight, with `--in-flight`
    stopped_by: StoppedBy | None = None
    cancelled_by: str | None = None
    results_at_stop: int | None = None  # when too many had failed again
    failed_at_stop: int | None = None

    @property
    def succeeded(self) -> int:
        """Counts the links that have a waiting job now."""
        return count_succeeded(self.counts)

    @property
    def completed(self) -> int:
        """Counts the links that have an outcome."""
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        """Counts the links that were left as they were."""
        return self.total - self.completed

    @property
    def taken_over(self) -> int:
        """Counts the links that others queued or changed first."""
        others = (Outcome.ALREADY_QUEUED, Outcome.ALREADY_RUNNING, Outcome.SKIPPED)
        return sum(self.counts.get(outcome, 0) for outcome in others)

    def stopped(self, reason: StoppedBy) -> BulkResult:
        """Returns the result of the operation if it ends now for this reason."""
        if self.cancelled or not self.left:
            return self
        return replace(self, cancelled=True, stopped_by=reason)


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


@dataclass(frozen=True)
class BulkWait:
    """The result of the wait for many links so far."""

    synced: int
    failed: int
    gone: int
    unfinished: int  # links without a result yet
    failed_links: Sequence[LinkFailure]
    seconds: float
    per_second: float = 0  # results within the last minute
    jobs_by_state: JobCounts = field(default_factory=JobCounts)  # of the links without a result
    suspended: bool = False  # the workers take no jobs
    lost_links: Sequence[LinkFailure] = ()
    unfinished_by_app: Sequence[AppCount] = ()  # once all have a result or time has run out
    failed_by_error: Sequence[ErrorGroup] = ()  # the failed links, once they are grouped

    def grouped(self) -> BulkWait:
        """Groups the failed links by error, most links first."""
        from docora_ops.folding import LONGEST, group_errors

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
