"""Tables in a pipe or a file, where no line is folded and no text cut off."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table

_WIDEST = 1_000
"""The largest width of a column; a longer text moves the rest of its own row only."""


def lines(renderable: RenderableType, rule: str = "─", width: int = sys.maxsize) -> Iterator[str]:
    """Returns the lines of a renderable.

    A table with headings that is wider than `width` becomes a block of lines for each row.
    """
    if isinstance(renderable, Table):
        yield from _table(renderable, rule, width)
    elif isinstance(renderable, Group):
        for each in renderable.renderables:
            yield from lines(each, rule, width)
    else:
        yield from str(renderable).split("\n")


def _table(table: Table, rule: str, width: int) -> Iterator[str]:
    cells = zip(*(column.cells for column in table.columns), strict=True)
    rows = [list(map(_text, row)) for row in cells]
    headings = [str(column.header) for column in table.columns]
    texts = [*rows, headings] if table.show_header else rows
    widths = [
        min(max(column.width or 0, *map(_width, its), 0), _WIDEST)
        for column, *its in zip(table.columns, *texts, strict=True)
    ]
    _, right, _, left = table.padding
    margin, gap = " " * left, " " * (left + right + (table.box is not None))
    total = sum(widths) + len(gap) * (len(widths) - 1) + left + right
    if table.show_header and total > width:
        yield from _blocks(headings, rows)
        return
    if table.show_header:
        yield margin + _line(headings, table.columns, widths, gap)
        yield rule * total
    for row in rows:
        for parts in zip_longest(*(text.split("\n") for text in row), fillvalue=""):
            yield margin + _line(parts, table.columns, widths, gap)


def _blocks(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    indent = max(map(cell_len, headings)) + 2
    separator: list[str] = []
    for row in rows:
        yield from separator
        for heading, text in zip(headings, row, strict=True):
            if text:
                first, *others = text.split("\n")
                yield heading + " " * (indent - cell_len(heading)) + first
                yield from (" " * indent + other for other in others)
        separator = [""]


def _text(cell: RenderableType) -> str:
    if isinstance(cell, Padding):
        return " " * cell.left + str(cell.renderable)
    return str(cell)


def _line(texts: Sequence[str], columns: Sequence[Column], widths: Sequence[int], gap: str) -> str:
    end = max((place for place, text in enumerate(texts, 1) if text), default=0)
    line = ""
    for place, (text, column, width) in enumerate(zip(texts, columns, widths, strict=True), 1):
        blanks = " " * (width - _width(text))
        line += blanks + text if column.justify == "right" else text
        if place >= end:
            return line
        line += gap if column.justify == "right" else blanks + gap
    return line


def _width(text: str) -> int:
    return _WIDEST if len(text) > _WIDEST else max(map(cell_len, text.split("\n")))
