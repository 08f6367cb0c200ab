"""Cells of tables, whose text is inert, and the words for numbers and names in them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from docora_ops import links
from docora_ops.text import amount, duration, inert, moment

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.segment import Segment

NO_ERROR = "no error recorded"
_LONGEST_ON_SCREEN = 2_000
_STYLES = {
    "green": {"ok", "done", "active", "queued", "replaced_stale", "reset", "removed"},
    "cyan": {"running", "waiting", "already_queued", "already_running", "left_alone"},
    "yellow": {"warning", "delayed", "cancelled", "skipped"},
    "bold red": {"failed", "not_queued", "not_repaired", "unreadable", "owner_gone"},
    "dim": {"not_checked"},
}


class _Cell(Text):
    """A text that a screen shows only the beginning of if it is very long."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        return Text.__rich_console__(self._readable, console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Text.__rich_measure__(self._readable, console, options)

    @property
    def _readable(self) -> Text:
        rest = len(self) - _LONGEST_ON_SCREEN
        if rest <= 0:
            return self
        return self[:_LONGEST_ON_SCREEN].append(f"… and {rest:,} characters more: see --json")


def cell(value: object, style: str = "") -> Text:
    """Makes inert text for a table: rich reads no markup in it, and a pipe gets all of it."""
    return _Cell(inert(value), style=style, overflow="fold")


def failed_tries(count: int) -> str:
    """Returns `1 try failed` or `2 tries failed`."""
    return f"{amount(count, 'try', 'tries')} failed"


def words(slug: str) -> str:
    """Returns `left alone` for `left_alone`."""
    return slug.replace("_", " ")


def style_of(slug: str) -> str:
    """Returns the style of a state or an outcome."""
    return next((style for style, slugs in _STYLES.items() if slug in slugs), "")


def state(slug: str) -> Text:
    """Shows a state or an outcome in words."""
    return cell(words(slug), style_of(slug))


def circuit(open_until: datetime | None, *, is_open: bool) -> Text:
    """Tells whether a circuit is open, and until when."""
    return cell(f"open until {moment(open_until)}", "yellow") if is_open else cell("closed")


def ago(seconds: float | None) -> str:
    """Returns `5 s ago`, or `unknown`."""
    return "unknown" if seconds is None else f"{duration(seconds)} ago"


def with_id(name: str, identifier: str) -> str:
    """Returns `Acme Search (app_…)`."""
    return f"{name} ({identifier})"


def link_name(app_name: str | None, repository_name: str | None) -> str | None:
    """Returns `Acme Search ← octo/api`, or None unless both names are known."""
    return links.link_name(app_name, repository_name) if app_name and repository_name else None
