"""Records side by side in columns or, where there is too little room, one below the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_GAP = 3
"""Blanks that a column needs beside its text."""


def records(
    names: Sequence[str], rows: Sequence[Sequence[Text]], width: int, numbers: Collection[str] = ()
) -> RenderableType:
    """A line for each row, or a block of lines if that takes more than `width` columns.

    `numbers` names the columns that hold such.
    """
    widths = [
        max(len(name), *(text.cell_len for text in column))
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    ]
    if sum(widths) + _GAP * len(widths) > width:
        return Group(*_blocks(names, rows))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for name in names:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _blocks(names: Sequence[str], rows: Sequence[Sequence[Text]]) -> list[RenderableType]:
    blocks: list[RenderableType] = []
    for row in rows:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True, min_width=max(map(len, names)))
        table.add_column(overflow="fold")
        for name, text in zip(names, row, strict=True):
            if text:
                table.add_row(name, text)
        blocks += [table, ""]
    return blocks[:-1]
