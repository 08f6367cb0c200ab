"""Lists, and screens of names and values, for a terminal of any width or for a pipe.

Imports rich only to print, so that commands can define columns without loading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from docora_ops.text import inert, moment

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

Row = TypeVar("Row")


class NamedLink(Protocol):
    """A link with its job id and, if known, the names of app and repository."""

    @property
    def job_id(self) -> str:
        """Returns `APP_ID-REPOSITORY_ID`."""

    @property
    def app_name(self) -> str | None:
        """Returns the app's name; None if unknown."""

    @property
    def repository_name(self) -> str | None:
        """Returns `owner/name`; None if unknown."""


NO_ERROR = "no error recorded"
ROWS_SHOWN = 20  # rows to show of a list that only illustrates a summary

_GAP = 2
_NARROWEST = 24  # characters per line that a long text needs to be readable
_LONG, _SHORT = 36, 16  # narrowest long text of a compact list: at first, and as a last resort
_LONGEST_ON_SCREEN = 2_000
_STYLES = {
    "green": {"ok", "done", "active", "queued", "replaced_stale", "reset", "removed", "synced"},
    "cyan": {"running", "waiting", "already_queued", "already_running", "left_alone"},
    "yellow": {"warning", "delayed", "cancelled", "skipped", "unknown"},
    "bold red": {"failed", "critical", "not_queued", "not_repaired", "unreadable", "owner_gone"},
    "dim": {"not_checked"},
}


def cell(value: object, style: str = "") -> Text:
    """Returns the value as inert text, in which markup has no effect."""
    from rich.text import Text

    return Text(inert(value), style=style, overflow="fold")


def one_line(value: object, style: str = "") -> Text:
    """Returns inert text that is cut, not wrapped, at the edge of a terminal."""
    line = cell(value, style)
    line.overflow, line.no_wrap = "ellipsis", True
    return line


def link_name(link: NamedLink) -> str:
    """Returns `Acme Search ← octo/api`; the job id if a name is unknown."""
    if link.app_name and link.repository_name:
        return f"{link.app_name} ← {link.repository_name}"
    return link.job_id


def shorten(text: str, width: int) -> str:
    """Cuts a text in the middle, so that it takes at most `width` columns of a terminal."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    end = set_cell_size(text[::-1], (width - 1) // 2)[::-1]
    return f"{set_cell_size(text, width // 2)}…{end}"


def words(slug: str) -> str:
    """Returns `left alone` for `left_alone`."""
    return slug.replace("_", " ")


def first_lines(
    counts: Sequence[tuple[int, str | None]], most: int, total: int = 0, how: str = ""
) -> list[str]:
    """Returns lines such as `12  HTTP 502`. If there are too many, the last is `and 40 more`.

    counts: numbers of links, each with an app or an error; None means no error.
    most: the most lines to return; if it is less than 2, returns an empty list.
    total: the number of all counts, if `counts` are only the first of them.
    how: the text after `and 40 more`, such as `: add --all`.
    """
    width = max((len(f"{links:,}") for links, _ in counts), default=0)
    lines = [f"{links:>{width},}  {text or f'({NO_ERROR})'}" for links, text in counts]
    total = total or len(lines)
    if most > 1 and total > most:
        lines[most - 1 :] = [f"and {total - most + 1:,} more{how}"]
    return lines if most > 1 else []


def planned(slug: str, *, is_planned: bool = True) -> str:
    """Returns an outcome in words, such as `queued`, or `would be queued` if it is planned."""
    if not is_planned or slug.startswith(("already", "left")):
        return words(slug)
    if slug == "replaced_stale":
        return "would replace a stale job"
    if slug.startswith("not_"):
        return f"would not be {words(slug[4:])}"
    return f"would be {words(slug)}"


def style_of(slug: str) -> str:
    """Returns the style of a state or an outcome."""
    return next((style for style, slugs in _STYLES.items() if slug in slugs), "")


@dataclass(frozen=True, eq=False)
class Column(Generic[Row]):
    """One column of a list.

    If a list is too wide for the terminal, it is narrowed in these steps, until it fits:

    1. Long texts are narrowed.
    2. Columns with a `left_out` are left out, lowest first, while any of them has no `narrowest`.
    3. Columns are narrowed to `narrowest`, from right to left.
    4. The remaining columns with a `left_out` are left out, lowest first.

    In a compact list, long texts keep 36 characters in steps 1 and 2, and 16 in steps 3 and 4.

    value: returns a text, a number or a time; None is an empty cell. A terminal shows each item of
        a tuple on its own line.
    style: returns the name of a style of rich.
    is_number: align right.
    folds: the values are long texts, which may be wrapped.
    left_out: when the column is left out: 1 is the first, 0 means never.
    narrowest: the width to which the column may be narrowed; 0 means never.
    """

    name: str
    value: Callable[[Row], object]
    style: Callable[[Row], str] | None = None
    is_number: bool = False
    folds: bool = False
    left_out: int = 0
    narrowest: int = 0

    def lines(self, row: Row) -> list[str]:
        """Returns the inert lines of a cell."""
        value = self.value(row)
        values = value if isinstance(value, tuple) else (value,)
        return [
            inert(moment(item) if isinstance(item, datetime) else item)
            for item in values
            if item is not None
        ]

    def cell(self, row: Row) -> Text:
        """Returns the styled text of a cell for a terminal."""
        from rich.text import Text

        style = self.style(row) if self.style else ""
        text = Text("\n".join(self.lines(row)), style, overflow="fold")
        text.truncate(_LONGEST_ON_SCREEN, overflow="ellipsis")
        return text


@dataclass(frozen=True, eq=False)
class Pairs:
    """A screen of names and values. A value without a name continues the previous value.

    longest: the most characters of a value to show on a terminal.
    piped: the name of a row that only a pipe gets.
    """

    rows: Sequence[tuple[str, Text]]
    longest: int = _LONGEST_ON_SCREEN
    piped: str | None = None

    def lines(self) -> Iterator[str]:
        """Yields the lines for a pipe: name, tab, value."""
        last_name = ""
        for name, value in self.rows:
            last_name = name or last_name
            yield f"{last_name}\t{value.plain.strip()}"

    def __rich__(self) -> Table:
        """Returns the table for a terminal."""
        from rich.table import Table

        table = Table.grid(padding=(0, _GAP, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in self.rows:
            if name == self.piped:
                continue
            value.truncate(self.longest, overflow="ellipsis")
            table.add_row(name, value)
        return table


@dataclass(frozen=True, eq=False)
class Listing(Generic[Row]):
    """A list with headings. A pipe gets all rows, columns and values in full.

    rows: for a pipe, may be an iterator, so that a long list needs no memory.
    most: the most rows to show on a terminal.
    is_compact: a terminal shows each row on one line. Long texts, such as errors, begin with the
        reason and are cut at their end; names are cut in the middle, because names often share
        their beginning.
    line: takes a row and the width of the terminal; returns the line to show instead of columns.
    """

    columns: Sequence[Column[Row]]
    rows: Iterable[Row]
    most: int | None = None
    is_compact: bool = False
    line: Callable[[Row, int], str] | None = None

    def lines(self) -> Iterator[str]:
        """Yields the lines for a pipe: a heading and the rows, separated by tabs."""
        yield "\t".join(column.name for column in self.columns)
        for row in self.rows:
            yield "\t".join(" ".join(column.lines(row)) for column in self.columns)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yields a table if it fits the terminal, otherwise a block per row; with `line`, lines."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        all_rows = list(self.rows)
        rows = all_rows[: self.most]
        if line := self.line:
            yield from (
                Text(line(row, options.max_width), no_wrap=True, overflow="ellipsis")
                for row in rows
            )
        elif widths := self._widths(rows, options.max_width):
            table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
            for column, width in widths.items():
                side: Literal["left", "right"] = "right" if column.is_number else "left"
                table.add_column(column.name, justify=side, width=width, overflow="fold")
            for row in rows:
                table.add_row(*(self._cell(column, row, width) for column, width in widths.items()))
            yield table
        else:
            for number, row in enumerate(rows):
                cells = ((column.name, column.cell(row)) for column in self.columns)
                yield from [""] if number else []
                yield Pairs([(name, text) for name, text in cells if text])
        if more := len(all_rows[len(rows) :]):
            yield Text(f"and {more:,} more: see --json")

    def _cell(self, column: Column[Row], row: Row, width: int) -> Text:
        from docora_ops.error_groups import with_reason_first

        text = column.cell(row)
        if self.is_compact and column.folds:
            text.plain = with_reason_first(text.plain)
            text.truncate(width, overflow="ellipsis")
        elif self.is_compact:
            text.plain = shorten(text.plain, width)
        return text

    def _widths(self, rows: Sequence[Row], width: int) -> dict[Column[Row], int]:
        """Returns the columns that fit, with their widths; empty if no readable table fits."""
        from rich.cells import cell_len

        widths: dict[Column[Row], int] = {}
        for column in self.columns:
            widest = max((cell_len(line) for row in rows for line in column.lines(row)), default=0)
            if widest or not rows:  # omits columns without any value
                widths[column] = max(widest, cell_len(column.name))
        removable = sorted(
            (column for column in widths if column.left_out), key=lambda column: -column.left_out
        )
        while (missing := sum(widths.values()) + _GAP * (len(widths) - 1) - width) > 0:
            is_last = all(column.narrowest for column in removable)
            texts = [column for column in widths if column.folds]
            least = _LONG if self.is_compact and not is_last else _NARROWEST
            steps = [(column, least) for column in texts]
            if is_last:
                steps += [(col, col.narrowest) for col in reversed(widths) if col.narrowest]
                steps += [(column, _SHORT) for column in texts if self.is_compact]
            if folded := _folded(widths, steps, missing):
                return folded
            if not removable:
                return {}
            del widths[removable.pop()]
        return widths


def _folded(
    widths: Mapping[Column[Row], int], steps: Sequence[tuple[Column[Row], int]], missing: int
) -> dict[Column[Row], int]:
    """Narrows columns one after the other, until the list is `missing` characters narrower.

    Returns the widths of all columns; empty if the list is still too wide after the last step.

    steps: the columns to narrow, in this order, each with its minimum width.
    """
    folded = dict(widths)
    for column, least in steps:
        saved = min(missing, max(0, folded[column] - least))
        folded[column] -= saved
        missing -= saved
    return {} if missing else folded


def named_values(value: Any) -> Iterator[tuple[str, Text]]:
    """Yields the name and value of each field that holds a text, an integer, a boolean or a time.

    Includes the fields of nested dataclasses. Omits other fields.
    """
    for field in fields(value):
        name, held = words(field.name).capitalize(), getattr(value, field.name)
        name = name.replace("Github", "GitHub").replace(" url", " URL")
        if is_dataclass(held) and not isinstance(held, type):
            yield from ((f"{name} {inner.lower()}", text) for inner, text in named_values(held))
        elif isinstance(held, bool):
            yield name, cell("yes" if held else "no")
        elif isinstance(held, datetime):
            yield name, cell(moment(held))
        elif isinstance(held, str | int):
            yield name, cell(held, style_of(str(held)))
