"""`history`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote

from rich.console import RenderableType

from docora_ops.audit import HistoryEntry, HistoryState
from docora_ops.render.cells import cell, words
from docora_ops.render.layout import records
from docora_ops.text import amount, moment

_COLUMNS = ("When", "Who", "What", "Result", "Operation", "Reason")
_NAMES = {"app_name": "app_id", "repository_name": "repository_id"}
"""Positional arguments of a command, each with the id that is left out beside it."""


def table(entries: Sequence[HistoryEntry], width: int) -> RenderableType:
    """Shows the changes, each with its command as it was typed."""
    rows = [
        (
            moment(entry.started_at),
            entry.who,
            " ".join(_arguments(entry)),
            _result(entry),
            entry.operation_id or "",
            entry.reason or "",
        )
        for entry in entries
    ]
    return records(_COLUMNS, [tuple(map(cell, row)) for row in rows], width)


def _arguments(entry: HistoryEntry) -> Iterator[str]:
    yield quote(entry.command)
    left_out = {identifier for name, identifier in _NAMES.items() if name in entry.selection}
    for name, value in entry.selection.items():
        if name in left_out:
            continue
        for each in value if isinstance(value, list) else [value]:
            if name not in _NAMES:
                yield quote(f"--{name.replace('_', '-')}")
            if each is not True:
                yield quote(str(each))


def _result(entry: HistoryEntry) -> str:
    counts = dict(entry.counts)
    total = counts.pop("total", 0)
    parts = [f"{count} {words(outcome)}" for outcome, count in counts.items()]
    if entry.state is HistoryState.DONE:
        return ", ".join(parts)
    return f"{amount(total, 'link')}: {', '.join([*parts, words(entry.state)])}"
