"""Lists that are a table where it is readable, and blocks of lines where it is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from typing import TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
Rows = Sequence[Sequence[Text]]

_GAP = 3
"""Blanks that a column needs beside its text."""
_BETWEEN = 2
"""Blanks behind a name and behind its value."""
_INDENT = 2
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


def pairs(rows: Iterable[tuple[str | Text, Text]], width: int = 0) -> Table:
    """Returns a table of names, `width` columns wide at least, and values."""
    shown = _Pairs(width)
    for name, text in rows:
        shown.add_row(name, text)
    return shown


class _Pairs(Table):
    """Names and values. A value with a word that fits only below its name is shown there."""

    def __init__(self, width: int) -> None:
        super().__init__(box=None, show_header=False, padding=(0, _BETWEEN, 0, 0))
        self.add_column(style="bold", no_wrap=True, min_width=width)
        self.add_column(overflow="fold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names, values = (list(column.cells) for column in self.columns)
        width = max([self.columns[0].min_width or 0, *(cell_len(str(name)) for name in names)])
        beside, below = options.max_width - width - 2 * _BETWEEN, options.max_width - _INDENT

        def is_below(row: tuple[RenderableType, RenderableType]) -> bool:
            longest = max(map(cell_len, str(row[1]).split()), default=0)
            return bool(str(row[0])) and beside < longest <= below

        for are_below, rows in groupby(zip(names, values, strict=True), is_below):
            if are_below:
                yield from (block(Text(str(name)), value) for name, value in rows)
                continue
            part = _Pairs(width)
            for row in rows:
                part.add_row(*row)
            yield from Table.__rich_console__(part, console, options)


def fitting_table(
    columns: Sequence[str],
    rows: Rows,
    width: int,
    *,
    long: int | None = None,
    numbers: Collection[str] = (),
) -> Table | None:
    """Returns a table that is readable in `width` columns, or None if there is none.

    Only the column number `long` may be folded.
    """
    widths = [
        max(cell_len(line) for text in texts for line in text.split("\n"))
        for texts in zip(columns, *([text.plain for text in row] for row in rows), strict=True)
    ]
    missing = sum(widths) + _GAP * len(widths) - width
    if missing > 0:
        if long is None or widths[long] - missing < _NARROWEST:
            return None
        widths[long] -= missing
    shown = headed(*columns, widths=widths, numbers=numbers)
    for row in rows:
        shown.add_row(*row)
    return shown


def block(title: Text, *lines: RenderableType) -> Table:
    """Returns one row of a list as a title and some lines, for a narrow terminal."""
    shown = Table.grid()
    shown.add_column(overflow="fold")
    title.stylize("bold")
    shown.add_row(title)
    for line in lines:
        shown.add_row(Padding(line, (0, 0, 0, _INDENT)))
    return shown


def records(
    columns: Sequence[str],
    rows: Rows,
    width: int,
    *,
    long: int | None = None,
    numbers: Collection[str] = (),
) -> RenderableType:
    """Returns a table as `fitting_table` does, otherwise a block of lines for each row."""
    if found := fitting_table(columns, rows, width, long=long, numbers=numbers):
        return found
    blocks: list[RenderableType] = []
    for row in rows:
        filled = [(name, text) for name, text in zip(columns, row, strict=True) if text]
        blocks += [pairs(filled, max(map(len, columns))), ""]
    return Group(*blocks[:-1])


def long_table(
    columns: Sequence[str],
    rows: Sequence[T],
    cells: Callable[[T], Sequence[str]],
    style: Callable[[T], str],
    width: int,
) -> Iterator[RenderableType]:
    """Shows any number of rows, some hundred at a time.

    If the table is too wide, leaves out the last column; if it still is, shows a line for each
    cell. `cells` returns the inert texts of a row; the one before the last is styled.
    """

    def texts(row: T) -> list[Text]:
        shown = [Text(text, overflow="fold") for text in cells(row)]
        shown[-2].stylize(style(row))
        return shown

    widths = [len(column) for column in columns]
    for row in rows:
        widths = list(map(max, widths, map(cell_len, cells(row))))
    if not (_fits(widths, width) or _fits(widths[:-1], width)):
        for row in rows:
            yield block(*texts(row))
        return
    if not _fits(widths, width):
        columns, widths = columns[:-1], widths[:-1]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        shown = headed(*columns, widths=widths)
        shown.show_header = not start
        for row in rows[start : start + _ROWS_AT_ONCE]:
            shown.add_row(*texts(row)[: len(columns)])
        yield shown


def _fits(widths: Sequence[int], width: int) -> bool:
    return sum(widths) + _GAP * len(widths) <= width
