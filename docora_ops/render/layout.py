"""Lists that are a table where it is readable, and something narrower where it is not."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAP = 3
"""Blanks that a column needs beside its text."""
_NARROWEST = 24
"""Columns that a long text needs to be read with pleasure."""

Cells = Sequence[Text]


def table(
    columns: Sequence[str], rows: Sequence[Cells], width: int, *, long: int
) -> RenderableType | None:
    """A table of inert cells that is readable in `width` columns, or None where there is none.

    The column number `long` may be folded, the others are as wide as their texts.
    """
    widths = [
        max(cell_len(name), *(cell_len(row[index].plain) for row in rows), 0)
        for index, name in enumerate(columns)
    ]
    missing = sum(widths) + _GAP * len(widths) - width
    if missing > 0:
        widths[long] -= missing
        if widths[long] < _NARROWEST:
            return None
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for name, column_width in zip(columns, widths, strict=True):
        shown.add_column(name, width=column_width, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def record(title: Text, *lines: Text) -> RenderableType:
    """One row of a list as some lines, for a narrow screen."""
    shown = Table.grid()
    shown.add_column(overflow="fold")
    title.stylize("bold")
    shown.add_row(title)
    for line in lines:
        shown.add_row(Padding(line, (0, 0, 0, 2)))
    return shown
