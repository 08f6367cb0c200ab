"""Reading values that Redis keeps as bytes, and that others may have written."""

from contextlib import suppress
from datetime import UTC, datetime

_MOST_DIGITS = 20


def whole_number(text: bytes | None, *, signed: bool = False) -> int | None:
    """Reads a number that others may have written; None for anything but a few digits.

    `signed`: there may be a minus sign before them.
    """
    digits = (text or b"").removeprefix(b"-" if signed else b"")
    return int(text) if text and digits.isdigit() and len(text) < _MOST_DIGITS else None


def text_of(value: bytes) -> str:
    """Decodes a value."""
    return value.decode(errors="replace")


def optional_text_of(value: bytes | None) -> str | None:
    """Decodes a value, None if it is missing or empty."""
    return text_of(value) if value else None


def moment_of_timestamp(seconds: float) -> datetime | None:
    """Returns the moment, None if the number is out of range."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC)
    return None
