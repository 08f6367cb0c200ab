"""Text from the database, made inert."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from rich.text import Text

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def inert(value: object) -> str:
    """The value as one line of printable characters.

    Control characters, escape sequences, bidi controls and the like are spelled out.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _UNSAFE
        else character
        for character in text
    )


def cell(value: object, style: str = "") -> Text:
    """Inert text for a table: no markup is read in it, and nothing of it is cut off."""
    return Text(inert(value), style=style, overflow="fold")


def moment(when: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds and `Z`, as Docora writes it."""
    if when is None:
        return None
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
