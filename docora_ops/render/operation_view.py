"""`operations`, `progress`, `cancel`, and `history`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from shlex import quote

from docora_ops.audit import HistoryEntry, HistoryState
from docora_ops.bulk import KnownOperation, OperationState, Results, StoppedBy
from docora_ops.links import LinkFailure
from docora_ops.render.columns import Column, Listing, Pairs, style_of, words
from docora_ops.render.link_view import failures
from docora_ops.text import amount, duration
from docora_ops.waits import BulkWait

_ENDS = {
    StoppedBy.CANCELLED: "cancelled",
    StoppedBy.INTERRUPTED: "interrupted",
    StoppedBy.LOST_SERVER: "stopped when a server was lost",
    StoppedBy.MAX_FAILURES: "stopped by --max-failures",
    StoppedBy.TIMEOUT: "stopped by --timeout",
    StoppedBy.LOST_JOBS: "stopped when all links in flight had lost their jobs",
}
_RESULTS = {
    "synced": "in sync",
    "failed": "failed again",
    "gone": "gone",
    "unfinished": "not finished",
}
_NAMES = {"app_name": "app_id", "repository_name": "repository_id"}
"""Positional arguments of a command, each with the id that is left out beside it."""


def command_line(command: str | None, selection: Mapping[str, object]) -> str:
    """Returns a command with its arguments and options, quoted for the shell."""
    return " ".join([quote(command), *_arguments(selection)]) if command else ""


def _arguments(selection: Mapping[str, object]) -> Iterator[str]:
    left_out = {identifier for name, identifier in _NAMES.items() if name in selection}
    for name, value in selection.items():
        if name in left_out:
            continue
        for each in value if isinstance(value, list) else [value]:
            if name not in _NAMES:
                yield quote(f"--{name.replace('_', '-')}")
            if each is not True:
                yield quote(str(each))


def _end_of(stopped_by: StoppedBy | None, cancelled_by: str | None) -> str:
    """Returns why an operation has left links as they were, in words."""
    if cancelled_by and stopped_by in {None, StoppedBy.CANCELLED}:
        return f"cancelled by {cancelled_by}"
    return _ENDS[stopped_by or StoppedBy.CANCELLED]


def _results_of(results: Results | None) -> str:
    """Counts the results of an operation's snapshots; empty if they are not known."""
    counts = asdict(results) if results else {}
    return ", ".join(f"{count} {_RESULTS[name]}" for name, count in counts.items() if count)


def _state(operation: KnownOperation) -> str:
    if operation.state is OperationState.CANCELLED:
        return _end_of(operation.stopped_by, operation.cancelled_by)
    return words(operation.state)


def ago(seconds: float | None) -> str:
    """Returns `5 s ago`, or `unknown`."""
    return "unknown" if seconds is None else f"{duration(seconds)} ago"


_OPERATIONS: tuple[Column[KnownOperation], ...] = (
    Column("Operation", lambda each: each.operation_id),
    Column("Completed", lambda each: f"{each.completed} of {each.total}", is_number=True),
    Column("Put to work", lambda each: each.put_to_work, is_number=True, left_out=4),
    Column(
        "Not queued",
        lambda each: each.not_queued,
        lambda each: "bold red" * bool(each.not_queued),
        is_number=True,
    ),
    Column("State", _state, lambda each: style_of(each.state)),
    Column("Results", lambda each: _results_of(each.results), left_out=3),
    Column("Last step", lambda each: ago(each.last_step_seconds), left_out=2),
    Column("Who", lambda each: each.who, left_out=1),
    Column("What", lambda each: command_line(each.command, each.selection), folds=True),
)


def operations_list(operations: Sequence[KnownOperation]) -> Listing[KnownOperation]:
    """Lists the operations with their progress and state."""
    return Listing(_OPERATIONS, operations)


@dataclass(frozen=True)
class ProgressData(KnownOperation):
    """The result of `progress`, and of `wait` for an operation, which alone has `waited`.

    `failures_not_kept`: links that could not be queued, beyond the 10,000 in `failures`.
    """

    failures: Sequence[LinkFailure]
    failures_not_kept: int
    waited: BulkWait | None


def progress_data(
    operation: KnownOperation,
    failures: Sequence[LinkFailure],
    failures_total: int,
    wait: BulkWait | None = None,
) -> ProgressData:
    """Returns the JSON data of `progress`, or of `wait` for an operation."""
    return ProgressData(
        **vars(operation),
        failures=failures,
        failures_not_kept=max(0, failures_total - len(failures)),
        waited=wait and wait.grouped(),
    )


def progress_screens(
    operation: KnownOperation, failed: Sequence[LinkFailure], failures_total: int
) -> Iterator[object]:
    """Shows the progress of one operation and the links that it could not queue."""
    rows = [
        (column.name, column.cell(operation))
        for column in _OPERATIONS
        if column.name != "Last step"
    ]
    yield Pairs([row for row in rows if row[1]])
    if failed:
        yield from ("", failures(failed))
    if (more := failures_total - len(failed)) > 0:
        yield f"and {more:,} more, which are not kept"


@dataclass(frozen=True)
class CancelData:
    """The result of `cancel`. `already_cancelled`: somebody had cancelled it before."""

    message: str
    operation_id: str
    already_cancelled: bool


def cancel_data(operation_id: str, *, is_first: bool) -> CancelData:
    """Returns the JSON data of `cancel`, with the dashboard's message."""
    return CancelData("Cancellation requested", operation_id, not is_first)


# `history`.


def _result(entry: HistoryEntry) -> str:
    counts = dict(entry.counts)
    total = counts.pop("total", 0)
    parts = [f"{count} {words(outcome)}" for outcome, count in counts.items()]
    if entry.state is not HistoryState.DONE:
        is_cancelled = entry.state is HistoryState.CANCELLED
        end = _end_of(entry.stopped_by, entry.cancelled_by) if is_cancelled else words(entry.state)
        parts = [f"{amount(total, 'link')}: {', '.join([*parts, end])}"]
    return "; ".join(filter(None, (", ".join(parts), _results_of(entry.results))))


_HISTORY: tuple[Column[HistoryEntry], ...] = (
    Column("When", lambda entry: entry.started_at),
    Column("Who", lambda entry: entry.who),
    Column("What", lambda entry: command_line(entry.command, entry.selection), folds=True),
    Column("Result", _result),
    Column("Operation", lambda entry: entry.operation_id, left_out=1),
    Column("Reason", lambda entry: entry.reason),
)


def history_list(entries: Sequence[HistoryEntry]) -> Listing[HistoryEntry]:
    """Lists the changes, each with its command as it was typed."""
    return Listing(_HISTORY, entries)
