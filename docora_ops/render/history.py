"""The audit trail for a person."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table

from docora_ops.models import HistoryEntry, HistoryState
from docora_ops.render.tables import amount
from docora_ops.render.text import cell, inert, moment

_COLUMNS = ("When", "Who", "What", "Result", "Operation", "Reason")
_GAP = 3


def history(entries: Sequence[HistoryEntry], width: int) -> RenderableType:
    """A line for each change, or a block of lines where `width` is too small for that."""
    rows = [_cells(entry) for entry in entries]
    widths = [max(map(cell_len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    if sum(widths) + _GAP * len(widths) > width:
        return Group(*(_block(row) for row in rows))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for name in _COLUMNS:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*map(cell, row))
    return table


def _block(row: Sequence[str]) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in zip(_COLUMNS, row, strict=True):
        if text:
            table.add_row(name, cell(text))
    table.add_row("", "")
    return table


def _cells(entry: HistoryEntry) -> tuple[str, ...]:
    texts = (
        moment(entry.when),
        entry.who,
        " ".join([entry.command, *_selection(entry)]),
        _result(entry),
        entry.operation_id or "",
        entry.reason or "",
    )
    return tuple(inert(text) for text in texts)


def _selection(entry: HistoryEntry) -> list[str]:
    shown = dict(entry.selection)
    for name, identifier in (("app_name", "app_id"), ("repository", "repository_id")):
        if name in shown:
            shown.pop(identifier, None)  # it is in --json
    return [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown.items()]


def _result(entry: HistoryEntry) -> str:
    counts = dict(entry.counts)
    total = counts.pop("total", None)
    parts = [f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.items()]
    if entry.state is not HistoryState.DONE:
        parts.append(entry.state.replace("_", " "))
    if total is None:
        return ", ".join(parts)
    return f"{amount(total, 'link')}: {', '.join(parts)}"
