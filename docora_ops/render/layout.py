"""Lists that are a table where it is readable, and something narrower where it is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAP = 3
"""Blanks that a column needs beside its text."""
_NARROWEST = 24
"""Columns that a long text needs to be read with pleasure."""

Cells = Sequence[Text]


def table(
    columns: Sequence[str],
    rows: Sequence[Cells],
    width: int,
    *,
    long: int | None = None,
    numbers: Collection[str] = (),
) -> RenderableType | None:
    """A table of inert cells that is readable in `width` columns, or None where there is none.

    The column number `long`, if any, may be folded, the others are as wide as their texts.
    `numbers` names the columns that hold such.
    """
    widths = [
        max(cell_len(name), *(cell_len(row[index].plain) for row in rows), 0)
        for index, name in enumerate(columns)
    ]
    missing = sum(widths) + _GAP * len(widths) - width
    if missing > 0:
        if long is None:
            return None
        widths[long] -= missing
        if widths[long] < _NARROWEST:
            return None
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for name, column_width in zip(columns, widths, strict=True):
        justify: JustifyMethod = "right" if name in numbers else "left"
        shown.add_column(name, width=column_width, overflow="fold", justify=justify)
    for row in rows:
        shown.add_row(*row)
    return shown


def records(
    names: Sequence[str], rows: Sequence[Cells], width: int, numbers: Collection[str] = ()
) -> RenderableType:
    """A line for each row, or a block of lines if that takes more than `width` columns."""
    return table(names, rows, width, numbers=numbers) or Group(*_blocks(names, rows))


def record(title: Text, *lines: Text) -> RenderableType:
    """One row of a list as some lines, for a narrow screen."""
    shown = Table.grid()
    shown.add_column(overflow="fold")
    title.stylize("bold")
    shown.add_row(title)
    for line in lines:
        shown.add_row(Padding(line, (0, 0, 0, 2)))
    return shown


def _blocks(names: Sequence[str], rows: Sequence[Cells]) -> list[RenderableType]:
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
