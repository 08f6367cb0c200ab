"""`history`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

from rich.console import RenderableType

from docora_ops.audit import HistoryEntry, HistoryState
from docora_ops.bulk import Results, StoppedBy
from docora_ops.render.cells import cell, words
from docora_ops.render.json import fields_of
from docora_ops.render.layout import records
from docora_ops.text import amount, moment

_COLUMNS = ("When", "Who", "What", "Result", "Operation", "Reason")
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


def table(entries: Sequence[HistoryEntry], width: int) -> RenderableType:
    """Shows the changes, each with its command as it was typed."""
    rows = [
        (
            moment(entry.started_at),
            entry.who,
            command_line(entry.command, entry.selection),
            _result(entry),
            entry.operation_id or "",
            entry.reason or "",
        )
        for entry in entries
    ]
    return records(_COLUMNS, [tuple(map(cell, row)) for row in rows], width)


def command_line(command: str, selection: Mapping[str, str | int | list[str]]) -> str:
    """Returns a command with its arguments and options, quoted for the shell."""
    return " ".join([quote(command), *_arguments(selection)])


def _arguments(selection: Mapping[str, str | int | list[str]]) -> Iterator[str]:
    left_out = {identifier for name, identifier in _NAMES.items() if name in selection}
    for name, value in selection.items():
        if name in left_out:
            continue
        for each in value if isinstance(value, list) else [value]:
            if name not in _NAMES:
                yield quote(f"--{name.replace('_', '-')}")
            if each is not True:
                yield quote(str(each))


def end_of(stopped_by: StoppedBy | None, cancelled_by: str | None) -> str:
    """Returns why an operation has left links as they were, in words."""
    if cancelled_by and stopped_by in {None, StoppedBy.CANCELLED}:
        return f"cancelled by {cancelled_by}"
    return _ENDS[stopped_by or StoppedBy.CANCELLED]


def results_of(results: Results | None) -> str:
    """Counts the results of an operation's snapshots; empty if they are not known."""
    counts = fields_of(results) if results else {}
    return ", ".join(f"{count} {_RESULTS[name]}" for name, count in counts.items() if count)


def _result(entry: HistoryEntry) -> str:
    counts = dict(entry.counts)
    total = counts.pop("total", 0)
    parts = [f"{count} {words(outcome)}" for outcome, count in counts.items()]
    if entry.state is not HistoryState.DONE:
        is_cancelled = entry.state is HistoryState.CANCELLED
        end = end_of(entry.stopped_by, entry.cancelled_by) if is_cancelled else words(entry.state)
        parts = [f"{amount(total, 'link')}: {', '.join([*parts, end])}"]
    return "; ".join(filter(None, (", ".join(parts), results_of(entry.results))))
