"""Lists and screens of names and values, for a terminal of any width or for a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from docora_ops.text import inert, moment

Row = TypeVar("Row")

_GAP = "  "
_NARROWEST = 24
"""Columns that a long text needs to be readable."""
_LONGEST_ON_SCREEN = 2_000
_STYLES = {
    "green": {"ok", "done", "active", "queued", "replaced_stale", "reset", "removed"},
    "cyan": {"running", "waiting", "already_queued", "already_running", "left_alone"},
    "yellow": {"warning", "delayed", "cancelled", "skipped", "unknown"},
    "bold red": {"failed", "critical", "not_queued", "not_repaired", "unreadable", "owner_gone"},
    "dim": {"not_checked"},
}


def cell(value: object, style: str = "") -> Text:
    """Returns the value as inert text, in which rich reads no markup."""
    return Text(inert(value), style=style, overflow="fold")


def unbroken(text: str) -> Text:
    """Returns a line that no terminal breaks, such as a command to paste."""
    return Text(inert(text), no_wrap=True, overflow="ignore")


def words(slug: str) -> str:
    """Returns `left alone` for `left_alone`."""
    return slug.replace("_", " ")


def style_of(slug: str) -> str:
    """Returns the style of a state or an outcome."""
    return next((style for style, slugs in _STYLES.items() if slug in slugs), "")


def state(slug: str) -> Text:
    """Returns a state or an outcome in words."""
    return cell(words(slug), style_of(slug))


@dataclass(frozen=True, eq=False)
class Column(Generic[Row]):
    """One column of a list, whatever the list is shown on.

    `value`: a text, a number or a moment; None is an empty cell. A terminal shows each item of a
    tuple on a line of its own. `style`: rich's name of a style.
    `is_number`: aligned right. `folds`: the only column whose text may take several lines.
    `left_out`: the columns with 1 are left out first where the terminal is narrow, then those with
    2, and so on; columns with 0 stay.
    """

    name: str
    value: Callable[[Row], object]
    style: Callable[[Row], str] | None = None
    is_number: bool = False
    folds: bool = False
    left_out: int = 0

    def lines(self, row: Row) -> list[str]:
        """Returns the inert lines of a cell."""
        value = self.value(row)
        values = value if isinstance(value, tuple) else (value,)
        return [
            inert(moment(each) if isinstance(each, datetime) else each)
            for each in values
            if each is not None
        ]

    def cell(self, row: Row) -> Text:
        """Returns the styled text of a cell for a terminal."""
        text = "\n".join(self.lines(row))
        return Text(text, self.style(row) if self.style else "", overflow="fold")


@dataclass(frozen=True, eq=False)
class Listing(Generic[Row]):
    """A list with headings. `most`: rows that a terminal shows; a pipe gets all of them."""

    columns: Sequence[Column[Row]]
    rows: Sequence[Row]
    most: int | None = None

    def lines(self) -> Iterator[str]:
        """Yields the lines for a pipe: a heading and the rows, separated by tabs."""
        yield "\t".join(column.name for column in self.columns)
        for row in self.rows:
            yield "\t".join(" ".join(column.lines(row)) for column in self.columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yields the lines for a terminal: a table if it fits, otherwise a block for each row."""
        rows = self.rows if self.most is None else self.rows[: self.most]
        if widths := self._widths(rows, options.max_width):
            yield from self._table(console, rows, widths, "-" if options.ascii_only else "─")
        else:
            for number, row in enumerate(rows):
                cells = ((column.name, column.cell(row)) for column in self.columns)
                block = Pairs([(name, text) for name, text in cells if text])
                yield from [Text()] if number else []
                yield from block.__rich_console__(console, options)
        if len(rows) < len(self.rows):
            yield Text(f"and {len(self.rows) - len(rows):,} more: see --json")

    def _widths(self, rows: Sequence[Row], width: int) -> dict[Column[Row], int]:
        """Returns the columns that fit, each with its width; empty if no table is readable."""
        widths = {column: cell_len(column.name) for column in self.columns}
        for row in rows:
            for column in self.columns:
                lengths = (cell_len(line[: _LONGEST_ON_SCREEN + 1]) for line in column.lines(row))
                widths[column] = max(widths[column], *lengths, 0)
        removable = sorted((each for each in widths if each.left_out), key=lambda it: -it.left_out)
        while (missing := sum(widths.values()) + len(_GAP) * (len(widths) - 1) - width) > 0:
            folding = next((column for column in widths if column.folds), None)
            if folding and widths[folding] - missing >= _NARROWEST:
                return widths | {folding: widths[folding] - missing}
            if not removable:
                return {}
            del widths[removable.pop()]
        return widths

    @staticmethod
    def _table(
        console: Console, rows: Iterable[Row], widths: dict[Column[Row], int], rule: str
    ) -> Iterator[Text]:
        def joined(texts: Iterable[Text]) -> Text:
            line = Text(_GAP).join(texts)
            line.rstrip()
            return line

        def aligned(column: Column[Row], text: Text) -> Text:
            text.align("right" if column.is_number else "left", widths[column])
            return text

        yield joined(aligned(column, Text(column.name, "bold")) for column in widths)
        yield Text(rule * (sum(widths.values()) + len(_GAP) * (len(widths) - 1)))
        for row in rows:
            cells = [
                list(_readable(column.cell(row)).wrap(console, width))
                for column, width in widths.items()
            ]
            for number in range(max(map(len, cells))):
                yield joined(
                    aligned(column, texts[number] if number < len(texts) else Text())
                    for column, texts in zip(widths, cells, strict=True)
                )


@dataclass(frozen=True, eq=False)
class Pairs:
    """A screen of names and values. A value without a name goes on with the one before it."""

    rows: Sequence[tuple[str, Text]]

    def lines(self) -> Iterator[str]:
        """Yields the lines for a pipe: name, tab, value."""
        known = ""
        for name, value in self.rows:
            known = name or known
            yield f"{known}\t{value.plain.strip()}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yields the lines for a terminal.

        A value with a word that fits only below its name is shown there.
        """
        indent = max((cell_len(name) for name, _ in self.rows), default=0) + len(_GAP)
        below = options.max_width - len(_GAP)
        for name, value in self.rows:
            label, width = Text(name.ljust(indent), "bold"), max(1, options.max_width - indent)
            text = _readable(value)
            longest = max(map(cell_len, text.plain.split()), default=0)
            if name and width < longest <= below and not text.no_wrap:
                yield Text(name, "bold")
                label, width = Text(_GAP), below
            for line in text.wrap(console, width):
                shown = Text.assemble(label, line)
                shown.rstrip()
                yield shown
                label = Text(" " * len(label))


def lines_of(part: object) -> Iterator[str]:
    """Yields the lines of a list, a screen or a sentence for a pipe: none is folded or cut off."""
    if isinstance(part, Listing | Pairs):
        yield from part.lines()
    else:
        yield str(part)


def _readable(text: Text) -> Text:
    """Returns the text for a screen, which shows only the beginning of a very long one."""
    rest = len(text) - _LONGEST_ON_SCREEN
    if rest <= 0:
        return text
    return text[:_LONGEST_ON_SCREEN].append(f"… and {rest:,} characters more: see --json")
