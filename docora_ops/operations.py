"""Bulk operations, and changes of all kinds, as Redis keeps them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.links import LinkFailure


@dataclass(frozen=True)
class Progress:
    """The progress of a bulk operation in Redis, where Docora's dashboard reads it too."""

    operation_id: str
    total: int
    completed: int
    put_to_work: int
    not_queued: int
    cancelled: bool
    taken_over: int
    """Completed links of a retry with `--in-flight` that others had put to work before."""

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
    """Why an operation left some links unchanged."""

    CANCELLED = "cancelled"  # by another command, or on the dashboard
    INTERRUPTED = "interrupted"  # by a signal, or its generator was closed
    LOST_SERVER = "lost_server"
    MAX_FAILURES = "max_failures"
    TIMEOUT = "timeout"
    LOST_JOBS = "lost_jobs"  # all links in flight have lost their jobs


@dataclass(frozen=True)
class Results:
    """The results of an operation's snapshots, as far as they are known."""

    synced: int
    failed: int
    gone: int
    unfinished: int


@dataclass(frozen=True)
class KnownOperation(Progress):
    """A bulk operation that is still in Redis. If `who` is None, docora-ops did not start it."""

    state: OperationState
    last_step_at: datetime | None
    last_step_seconds: int | None  # since then, by the clock of Redis
    who: str | None
    command: str | None
    selection: Mapping[str, str | int | bool | list[str]]
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None
    messages: Sequence[str]  # the last ones of a detached run, each with its moment


@dataclass(frozen=True)
class OperationRecord(KnownOperation):
    """A bulk operation as it is kept for a week.

    Docora's dashboard keeps no records: of its operations, `started_at` and `reason` are None.
    `failures`: the first links that could not be queued. `failed_links`: the first links
    that failed again, if their snapshots were awaited.
    """

    started_at: datetime | None
    reason: str | None
    failures: Sequence[LinkFailure]
    failed_links: Sequence[LinkFailure]


@dataclass(frozen=True)
class Change:
    """A requested change: who asked for it, with which command and options, and why."""

    who: str
    command: str
    selection: Mapping[str, object]
    reason: str | None = None
    target: str | None = None


class HistoryState(StrEnum):
    """The end of a change, as its audit entries tell it."""

    DONE = "done"
    CANCELLED = "cancelled"
    NOT_FINISHED = "not_finished"


@dataclass(frozen=True)
class HistoryEntry:
    """A change as recorded in its audit entries.

    `ended_at`: None if it has not finished.
    """

    started_at: datetime
    ended_at: datetime | None
    who: str
    command: str
    selection: Mapping[str, str | int | bool | list[str]]  # options and their values
    reason: str | None
    operation_id: str | None
    counts: Mapping[str, int]
    """Links by outcome, their `total`, and delivery records: `deliveries_cleared` or, with
    `--update`, `deliveries_marked`."""
    state: HistoryState
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None
    target: str | None = None  # as named by who made the change

    @property
    def latest_at(self) -> datetime:
        """Returns the moment of the latest entry."""
        return self.ended_at or self.started_at

    def names_app(self, app: str) -> bool:
        """Tells whether the selection names this app, by id or name (case-insensitive)."""
        names: list[str | int] = []
        for option in ("app_id", "app_name", "app"):
            value = self.selection.get(option, [])
            names += value if isinstance(value, list) else [value]
        return app.casefold() in {str(name).casefold() for name in names}
