"""Reading values that Redis keeps as bytes, and that others may have written."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from shlex import quote

_MOST_DIGITS = 20
_SPECIAL = re.compile(r"[*?\[\]\\]")


def whole_number(text: bytes | None, *, signed: bool = False) -> int | None:
    """Reads a number that others may have written; None for anything but a few digits.

    `signed`: there may be a minus sign before them.
    """
    digits = (text or b"").removeprefix(b"-" if signed else b"")
    return int(text) if text and digits.isdigit() and len(text) < _MOST_DIGITS else None


def command_to_delete(*patterns: str) -> str:
    """Returns a shell command that deletes all keys of these patterns in $REDIS_URL."""
    redis = 'redis-cli -u "$REDIS_URL"'
    scans = "; ".join(f"{redis} --scan --pattern {quote(each)}" for each in patterns)
    return f"{{ {scans}; }} | xargs -r -n 100 {redis} del"


def literal(name: str) -> str:
    """Returns the pattern that matches just this name."""
    return _SPECIAL.sub(r"\\\g<0>", name)


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
