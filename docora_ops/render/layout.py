"""Lists that are a table where it is readable, and something narrower where it is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
Cells = Sequence[Text]

_GAP = 3
"""Blanks that a column needs beside its text."""
_NARROWEST = 24
"""Columns that a long text needs to be readable."""
_ROWS_AT_ONCE = 500


def headed(*columns: str, widths: Iterable[int] = (), numbers: Collection[str] = ()) -> Table:
    """Returns an empty table with headings; the columns named in `numbers` align right."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for name, width in zip_longest(columns, widths):
        justify: JustifyMethod = "right" if name in numbers else "left"
        shown.add_column(name, width=width, overflow="fold", justify=justify)
    return shown


def pairs() -> Table:
    """Returns an empty table of names and values."""
    shown = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    return shown


def fitting_table(
    columns: Sequence[str],
    rows: Sequence[Cells],
    width: int,
    *,
    long: int | None = None,
    numbers: Collection[str] = (),
) -> Table | None:
    """Returns a table that is readable in `width` columns, or None if there is none.

    Only the column number `long` may be folded.
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
    shown = headed(*columns, widths=widths, numbers=numbers)
    for row in rows:
        shown.add_row(*row)
    return shown


def records(
    names: Sequence[str], rows: Sequence[Cells], width: int, numbers: Collection[str] = ()
) -> RenderableType:
    """Shows each row as a line, or as a block of lines if a line would exceed `width`."""
    if found := fitting_table(names, rows, width, numbers=numbers):
        return found
    blocks: list[RenderableType] = []
    for row in rows:
        block = pairs()
        block.columns[0].min_width = max(map(len, names))
        for name, text in zip(names, row, strict=True):
            if text:
                block.add_row(name, text)
        blocks += [block, ""]
    return Group(*blocks[:-1])


def record(title: Text, *lines: Text) -> RenderableType:
    """Shows one row of a list as some lines, for a narrow screen."""
    shown = Table.grid()
    shown.add_column(overflow="fold")
    title.stylize("bold")
    shown.add_row(title)
    for line in lines:
        shown.add_row(Padding(line, (0, 0, 0, 2)))
    return shown


def long_table(
    layouts: Sequence[tuple[tuple[str, ...], Callable[[T], tuple[str, ...]]]],
    rows: Sequence[T],
    style: Callable[[T], str],
    width: int,
) -> Iterator[RenderableType]:
    """Shows any number of rows, some hundred at a time, in the first layout that fits, or the last.

    A layout has columns and a function from a row to as many inert texts; the third is styled.
    """
    for columns, cells in layouts:
        widths = [len(column) for column in columns]
        for row in rows:
            widths = [
                max(size, cell_len(text)) for size, text in zip(widths, cells(row), strict=True)
            ]
        fits = sum(widths) + _GAP * len(widths) <= width
        if fits:
            break
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        shown = headed(*columns, widths=widths if fits else ())
        shown.show_header = not start
        for row in rows[start : start + _ROWS_AT_ONCE]:
            texts = [Text(text, overflow="fold") for text in cells(row)]
            texts[2].stylize(style(row))
            shown.add_row(*texts)
        yield shown
