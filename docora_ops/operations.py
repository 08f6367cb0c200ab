"""Bulk operations, changes and waits, as stored in Redis or returned by actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from docora_ops.error_groups import ErrorGroup
from docora_ops.errors import UsageError
from docora_ops.links import Action, AppCount, LinkFailure, Outcome, PlannedLink

_HOUR = 3_600  # seconds for which a killed operation stays open


class OperationState(StrEnum):
    """The state of a bulk operation. `OWNER_GONE`: its command has been silent for two minutes."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    OWNER_GONE = "owner_gone"


class StoppedBy(StrEnum):
    """Why an operation left some links unchanged."""

    CANCELLED = "cancelled"  # by another command, or on the dashboard
    INTERRUPTED = "interrupted"  # by a signal, or its generator was closed
    LOST_SERVER = "lost_server"
    MAX_FAILURES = "max_failures"
    TIMEOUT = "timeout"
    LOST_JOBS = "lost_jobs"  # all links in flight have lost their jobs


@dataclass(frozen=True)
class Results:
    """The known results of an operation's snapshots.

    Includes snapshots that were already running when the operation reached their links.
    """

    synced: int
    failed: int
    gone: int
    unfinished: int


@dataclass(frozen=True)
class KnownOperation:
    """A bulk operation that is still in Redis.

    started_at, who, command, reason: None for operations of Docora's dashboard.
    taken_over: the number of completed links that another producer queued or changed first. Always
        0 except for a retry with `--in-flight`.
    """

    operation_id: str
    total: int
    completed: int
    put_to_work: int
    not_queued: int
    cancelled: bool
    taken_over: int
    state: OperationState
    started_at: datetime | None
    last_step_at: datetime | None
    last_step_seconds: int | None  # since then, by the clock of Redis
    who: str | None
    command: str | None
    selection: Mapping[str, str | int | bool | list[str]]
    reason: str | None
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None
    messages: Sequence[str]  # the last ones of a detached command, each with its time

    @property
    def is_open(self) -> bool:
        """Tells whether the operation is running, or was killed less than an hour ago."""
        is_recent = self.last_step_seconds is None or self.last_step_seconds < _HOUR
        is_killed = self.state is OperationState.OWNER_GONE
        return self.state is OperationState.RUNNING or (is_killed and is_recent)

    @property
    def finished(self) -> bool:
        """Tells whether every link of the operation has an outcome."""
        return self.completed >= self.total


@dataclass(frozen=True)
class OperationRecord(KnownOperation):
    """A bulk operation with its failures: links not queued, and links that failed again.

    Docora's dashboard records neither.

    failures: the first links that could not be queued, with up to 1,000 characters of each error.
    failed_links: the first links that failed again, if their snapshots were awaited.
    """

    failures: Sequence[LinkFailure]
    failed_links: Sequence[LinkFailure]


@dataclass(frozen=True)
class Change:
    """A requested change: who asked for it, with which command and options, and why."""

    who: str
    command: str
    selection: Mapping[str, object]
    reason: str | None = None


class HistoryState(StrEnum):
    """Whether a change was finished or cancelled, according to its audit entries."""

    DONE = "done"
    CANCELLED = "cancelled"
    NOT_FINISHED = "not_finished"


@dataclass(frozen=True)
class HistoryEntry:
    """A change as recorded in its audit entries. `ended_at`: None if it has not finished."""

    started_at: datetime
    ended_at: datetime | None
    who: str
    command: str
    selection: Mapping[str, str | int | bool | list[str]]  # options and their values
    reason: str | None
    operation_id: str | None
    counts: Mapping[str, int]
    """Links by outcome, their `total`, and `deliveries_cleared`: as in `BulkResult`."""
    state: HistoryState
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None

    @property
    def latest_at(self) -> datetime:
        """Returns the time of the latest audit entry."""
        return self.ended_at or self.started_at

    @property
    def is_idle_pass(self) -> bool:
        """Tells whether this is a complete pass of `schedule` that queued nothing."""
        in_place = {"total", Outcome.ALREADY_QUEUED, Outcome.ALREADY_RUNNING, Outcome.SKIPPED}
        is_pass = self.command == Action.SCHEDULE and self.state is HistoryState.DONE
        return is_pass and self.counts.keys() <= in_place

    def names_app(self, app: str) -> bool:
        """Tells whether the selection names this app, by id or name (case-insensitive)."""
        names: list[str | int] = []
        for option in ("app_id", "app_name", "app"):
            value = self.selection.get(option, [])
            names += value if isinstance(value, list) else [value]
        return app.casefold() in {str(name).casefold() for name in names}


_LEAST_RESULTS = 20


@dataclass(frozen=True)
class MaxFailures:
    """The limit of `--max-failures`: a number of snapshots, or a percentage of all results."""

    number: int
    is_percent: bool = False

    def __str__(self) -> str:
        """Returns the limit as typed."""
        return f"{self.number}%" if self.is_percent else str(self.number)

    def is_exceeded(self, failed: int, synced: int) -> bool:
        """Tells whether the failures exceed the limit. A percentage applies from 20 results on."""
        if not self.is_percent:
            return failed > self.number
        results = failed + synced
        return results >= _LEAST_RESULTS and failed * 100 > self.number * results


@dataclass(frozen=True)
class ChangeOptions:
    """Options of a retry or resync. Actions on one link ignore `in_flight` and the fields below it.

    Raises UsageError for options that do not go together.
    """

    front: bool = False  # queue ahead of all waiting jobs
    reset_circuit: bool = False  # also close the circuit of each repository
    update: bool = False  # a resync marks the delivery records instead of deleting them
    dry_run: bool = False  # change nothing, only predict the outcomes
    path: str | None = None  # a resync of one link sends only these files; `*` matches any text
    now: bool = False  # exempt the job of one link from the hold of its app
    in_flight: int | None = None  # the most snapshots in flight; waits for all of them
    max_failures: MaxFailures | None = None  # beyond this, stop queueing; needs `in_flight`
    wait: bool = False  # wait for the snapshots
    timeout: float | None = None  # seconds after which the wait ends; the jobs continue

    def __post_init__(self) -> None:
        if self.in_flight is not None and self.in_flight < 1:
            raise UsageError("--in-flight needs at least 1", hint="leave it out for no limit")
        if self.max_failures and self.in_flight is None:
            raise UsageError("--max-failures needs --in-flight", hint="add --in-flight N")
        if self.timeout is not None and not (self.wait or self.in_flight):
            raise UsageError("--timeout needs --wait", hint="add --wait")
        if self.wait and self.dry_run:
            raise UsageError("--wait and --dry-run can't be combined", hint="remove one of them")

    @property
    def is_paced(self) -> bool:
        """Tells whether the number of snapshots in flight is limited."""
        return self.in_flight is not None and not self.dry_run


NO_OPTIONS = ChangeOptions()


@dataclass(frozen=True)
class RunningOperation(KnownOperation):
    """A running bulk operation that shares links with the selection of another command.

    links: how many of the shared links the operation has not queued yet, or has no result for.
    """

    links: int


@dataclass(frozen=True)
class LeftToOperation:
    """The number of due links that `schedule` leaves to an operation with `--in-flight`."""

    operation_id: str
    links: int


@dataclass(frozen=True)
class BulkResult:
    """The result of a bulk operation so far.

    completed, left: add up to `total`.
    put_to_work: the sum of `queued`, `replaced_stale`, `reset` and `already_queued`.
    in_flight, taken_over: None without `--in-flight`.
    deliveries_cleared: how many delivery records were deleted or, with `--update`, marked; None
        except for a resync.
    circuits_reset, circuits_locked: None without `--reset-circuit`.
    planned_links: None without `--dry-run`.
    running_operations: operations that were at work on the same links before this one began.
    failures: a list that all results of the operation share, and that the operation adds to.
    """

    action: Action
    dry_run: bool
    operation_id: str | None
    total: int
    completed: int
    left: int
    put_to_work: int
    cancelled: bool
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    queued: int
    replaced_stale: int
    reset: int
    already_queued: int
    already_running: int
    skipped: int
    not_queued: int
    deliveries_cleared: int | None
    open_circuits_left_out: int | None
    held_left_out: Sequence[AppCount]  # held apps, whose links were left out
    circuits_reset: int | None
    circuits_locked: int | None
    in_flight: int | None
    taken_over: int | None  # as in `KnownOperation`
    left_to_operations: Sequence[LeftToOperation] | None
    running_operations: Sequence[RunningOperation]
    failures: Sequence[LinkFailure]
    planned_links: Sequence[PlannedLink] | None

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """Counts the links by outcome."""
        return {outcome: count for outcome in Outcome if (count := getattr(self, outcome))}

    def stopped(self, reason: StoppedBy) -> Self:
        """Returns the result as it would be if the operation ended now for this reason."""
        if self.cancelled or not self.left:
            return self
        return replace(self, cancelled=True, stopped_by=reason)


class WaitEnd(StrEnum):
    """How the wait for one link ended."""

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
    """Counts of the jobs of followed links. A missing job counts as lost only after a while."""

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
    jobs_by_state: JobCounts = field(default_factory=JobCounts)  # jobs of links without a result
    suspended: bool = False  # whether the workers are suspended
    lost_links: Sequence[LinkFailure] = ()
    failed_by_error: Sequence[ErrorGroup] = ()  # set by `grouped`

    def grouped(self) -> Self:
        """Returns the result with its failed links grouped by error, most links first."""
        from docora_ops.error_groups import group_failures

        return replace(self, failed_by_error=group_failures(self.failed_links))

    @property
    def only_lost_left(self) -> bool:
        """Tells whether links without a result are left, but none of them has a live job."""
        return 0 < self.unfinished <= self.jobs_by_state.lost

    @property
    def results(self) -> Results:
        """Returns the results to store with the operation."""
        return Results(self.synced, self.failed, self.gone, self.unfinished)

    @property
    def total(self) -> int:
        """Counts all followed links."""
        return self.synced + self.failed + self.gone + self.unfinished
