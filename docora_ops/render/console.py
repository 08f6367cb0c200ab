"""Consoles that suit a terminal, a pipe or a file, and Markdown for a terminal."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO

from rich.console import Console, ConsoleDimensions


class _OwnSize(Console):
    """A console as large as its own terminal: rich prefers COLUMNS, LINES and stdin's terminal."""

    @property  # type: ignore[misc]  # nobody sets it
    def size(self) -> ConsoleDimensions:
        """The columns and lines, asked for each time; rich's own if the terminal has no size."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(self.file.fileno())
            if columns and lines:
                return ConsoleDimensions(columns, lines)
        return super().size


def is_terminal(stream: TextIO) -> bool:
    """Tells whether the stream is a screen that can do more than print."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def may_animate(stream: TextIO) -> bool:
    """Tells whether the stream may show something that moves."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def make_console(stream: TextIO) -> Console:
    """Makes a console that neither colours nor animates unless the stream is a terminal."""
    return _OwnSize(
        file=stream,
        force_terminal=is_terminal(stream),
        no_color=True if os.environ.get("NO_COLOR") else None,
        markup=False,
        emoji=False,
        highlight=False,
    )
