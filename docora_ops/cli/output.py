"""Tables, screens of names and values, and JSON: what a command prints on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

from docora_ops.text import flat, inert, mask, mask_url, moment

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Row = TypeVar("Row")

_NARROWEST = 36  # characters of a folded column
_GAP = 1  # characters between two columns
_STYLES = {
    "red": ("failed", "critical", "not_queued", "lost", "given_up"),
    "yellow": ("pending_snapshot", "warning", "skipped", "open", "stale", "cancelled", "abandoned"),
    "cyan": ("scanning", "running", "queued", "replaced_stale", "reset", "already_queued"),
    "green": ("synced", "ok", "done", "finished"),
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}


def style_of(word: str) -> str | None:
    """Returns the colour of a word for a state; None if it has none."""
    return _STYLE_OF.get(word)


def shown(value: object) -> str:
    """Returns a value as one line of inert text, without secrets. None is an empty text."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return inert(_without_secrets(flat(str(value))))


def _without_secrets(text: str) -> str:
    """Masks secrets, also in the query of a text that is a URL."""
    return mask_url(text) if "://" in text and " " not in text else mask(text)


def _piped(value: object) -> str:
    """Returns a value in full for a pipe: times with milliseconds, numbers without separators."""
    if isinstance(value, datetime):
        return moment(value) or ""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else shown(value)


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table.

    drop: a narrow terminal leaves out the column with the highest number first; 0: never.
    folds: long texts, which a narrow terminal truncates.
    wraps: a folded text goes on in the next line instead.
    """

    name: str
    value: Callable[[Row], object]
    style: Callable[[Row], str | None] | None = None
    is_number: bool = False
    drop: int = 0
    folds: bool = False
    wraps: bool = False


@dataclass(frozen=True)
class Table(Generic[Row]):
    """Rows under headings.

    A terminal shows a table, or a block per row if it is too narrow. A pipe gets all rows and
    columns in full, separated by tabs.

    limit: the most rows that a terminal shows; None for all.
    """

    columns: Sequence[Column[Row]]
    rows: Sequence[Row]
    limit: int | None = None

    def lines(self) -> Iterator[str]:
        """Yields the lines for a pipe, the headings first."""
        yield "\t".join(column.name for column in self.columns)
        for row in self.rows:
            yield "\t".join(_piped(column.value(row)) for column in self.columns)

    def screen(self, width: int) -> Iterator[RenderableType]:
        """Yields what a terminal of this width shows."""
        from rich.table import Table as RichTable
        from rich.text import Text

        rows = self.rows[: self.limit]
        if widths := self._widths(rows, width):
            table = RichTable.grid(padding=(0, _GAP, 0, 0))
            for column, size in widths.items():
                side: Any = "right" if column.is_number else "left"
                rest: Any = "fold" if column.wraps else "ellipsis"
                table.add_column(justify=side, width=size, no_wrap=not column.wraps, overflow=rest)
            table.add_row(*(Text(column.name, style="bold") for column in widths))
            for row in rows:
                table.add_row(*(_cell(column, row) for column in widths))
            yield table
        else:
            for row in rows:
                pairs = [(column.name, _cell(column, row)) for column in self.columns]
                yield from Pairs([(name, text) for name, text in pairs if text.plain]).screen(width)
                yield ""
        if more := len(self.rows) - len(rows):
            yield f"and {more:,} more: see --json"

    def _widths(self, rows: Sequence[Row], width: int) -> dict[Column[Row], int]:
        """Returns the columns that fit, with their widths; empty if no readable table fits."""
        from rich.cells import cell_len

        full: dict[Column[Row], int] = {}
        for column in self.columns:
            widest = max((cell_len(shown(column.value(row))) for row in rows), default=0)
            if widest or not rows:  # leaves out columns without any value
                full[column] = max(widest, cell_len(column.name))
        while full:
            widths = dict(full)  # once a column is dropped, the others may be wider
            missing = sum(widths.values()) + _GAP * (len(widths) - 1) - width
            for column in sorted(widths, key=lambda column: (not column.folds, -widths[column])):
                if missing > 0 and (column.folds or not any(other.drop for other in widths)):
                    saved = min(missing, max(0, widths[column] - _NARROWEST))
                    widths[column] -= saved
                    missing -= saved
            if missing <= 0:
                return widths
            dropped = max(widths, key=lambda column: column.drop)
            if not dropped.drop:
                return {}
            del full[dropped]
        return {}


def _cell(column: Column[Row], row: Row) -> Any:
    from rich.text import Text

    style = column.style(row) if column.style else None
    return Text(shown(column.value(row)), style=style or "")


@dataclass(frozen=True)
class Pairs:
    """Names and values, one per line. A third item of a row is the style of the value."""

    rows: Sequence[tuple[str, object] | tuple[str, object, str | None]]

    def lines(self) -> Iterator[str]:
        """Yields the lines for a pipe: name, tab, value."""
        for name, value, *_ in self.rows:
            yield f"{name}\t{_piped(value)}"

    def screen(self, _: int) -> Iterator[RenderableType]:
        """Yields what a terminal shows."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable.grid(padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value, *style in self.rows:
            text = value if isinstance(value, Text) else Text(shown(value), (*style, None)[0] or "")
            table.add_row(name, text)
        yield table


Part = Table[Any] | Pairs | str


def may_animate(stream: TextIO) -> bool:
    """Tells whether the stream may show colours and animations."""
    is_plain = os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR")
    return stream.isatty() and not is_plain


def console_of(stream: TextIO) -> Console:
    """Returns a console that neither colours nor animates unless the stream is a terminal."""
    from rich.console import Console

    return Console(
        file=stream,
        force_terminal=stream.isatty() and os.environ.get("TERM") != "dumb",
        no_color=True if os.environ.get("NO_COLOR") else None,
        markup=False,
        emoji=False,
        highlight=False,
    )


def render(parts: Iterable[Part]) -> str:
    """Returns the parts of a screen as text for the terminal of stdout."""
    console = console_of(sys.stdout)
    with console.capture() as capture:
        for part in parts:
            rendered = [inert(part)] if isinstance(part, str) else part.screen(console.width)
            for item in rendered:
                console.print(item, crop=False)
    return capture.get()


def piped(parts: Iterable[Part]) -> Iterator[str]:
    """Yields the parts of a screen as lines for a pipe."""
    for part in parts:
        yield from [part] if isinstance(part, str) else part.lines()


def encode(data: object) -> str:
    """Returns data as one line of ASCII JSON, which can't control a terminal.

    Leaves out the fields of dataclasses with `repr=False`, which are secret, and masks secrets in
    texts.
    """
    return json.dumps(_encodable(data))


def _encodable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, datetime):
        return moment(value)
    if is_dataclass(value):
        present = (field.name for field in fields(value) if field.repr)
        return {name: _encodable(getattr(value, name)) for name in present}
    if isinstance(value, Mapping):
        return {str(name): _encodable(item) for name, item in value.items()}
    return [_encodable(item) for item in value]
