"""Cells of tables, whose text is inert."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.text import Text

from docora_ops.text import inert

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.segment import Segment

_LONGEST_ON_SCREEN = 2_000


class _Cell(Text):
    """On a screen no longer than can be read there."""

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
    """Inert text for a table: no markup is read in it, and in a pipe nothing of it is cut off."""
    return _Cell(inert(value), style=style, overflow="fold")
