"""Text from the database, made inert."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.segment import Segment

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0").union(
    *(map(chr, range(*ends)) for ends in ((0x180B, 0x1810), (0xFE00, 0xFE10), (0xE0100, 0xE01F0)))
)
"""Letters and marks that Unicode has no glyph for."""
_LONGEST_ON_SCREEN = 2_000


def inert(value: object) -> str:
    """The value as one line of characters that can be seen.

    Control characters, escape sequences, bidi controls and the like are spelled out.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _UNSAFE or character in _UNSEEN
        else character
        for character in text
    )


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


def moment(when: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds and `Z`, as Docora writes it."""
    if when is None:
        return None
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
