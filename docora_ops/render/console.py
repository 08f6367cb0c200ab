"""Consoles that suit a terminal, a pipe or a file."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console


def is_terminal(stream: TextIO) -> bool:
    """Tells whether the stream is a screen that can do more than print."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def may_animate(stream: TextIO) -> bool:
    """Tells whether the stream may show something that moves."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def make_console(stream: TextIO) -> Console:
    """Makes a console that neither colours nor animates unless the stream is a terminal."""
    return Console(
        file=stream,
        force_terminal=is_terminal(stream),
        no_color=True if os.environ.get("NO_COLOR") else None,
        markup=False,
        emoji=False,
        highlight=False,
    )
