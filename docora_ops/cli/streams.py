"""Standard streams that never keep a command from doing its work."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

_SECRETS = {"DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "PGPASSWORD"}
_SECRETS |= {name.lower() for name in _SECRETS}  # the settings are read in either case


class OutputStream:
    """Stdout or stderr. Drops the rest of the output once its reader has gone or its disk is full.

    So a command finishes its work, with the right exit code, whether or not anybody reads.
    """

    def __init__(self, stream: TextIO) -> None:
        # A character that can't be encoded must not end the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        self._stream = stream
        self.failure: OSError | None = None
        """Why text was lost, unless its reader has gone."""
        self.has_lost_its_reader = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text, or drops it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            self.has_lost_its_reader = True
        else:
            self.failure = error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def guard_streams() -> OutputStream:
    """Replaces stdin if it is closed, and stdout and stderr. Returns stdout."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - for good
    output = OutputStream(sys.stdout or _nowhere())
    sys.stdout = cast("TextIO", output)
    sys.stderr = cast("TextIO", OutputStream(sys.stderr or _nowhere()))
    return output


def show_paged(text: str, height: int) -> None:
    """Writes the text to stdout, through the pager if it has `height` lines or more.

    Waits until the pager has ended. Meanwhile signals do not end the command: Ctrl-C is a key of
    the pager.
    """
    from rich.pager import SystemPager

    from docora_ops.render.console import is_terminal

    is_off = os.environ.get("PAGER") == "" or not is_terminal(sys.stdout)
    if is_off or text.count("\n") < height or not _is_foreground(sys.stdout):
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    os.environ.setdefault("LESS", "FRX")  # R: show colours
    for name in os.environ.keys() & _SECRETS:  # a pager may run other programs
        del os.environ[name]
    SystemPager().show(text)


def write_at_once(text: str) -> None:
    """Writes to stderr, unless it is closed, past its buffer, which a signal may interrupt."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))


def _is_foreground(terminal: TextIO) -> bool:
    """Tells whether the terminal is ours to read: a pager in a background job would be stopped."""
    try:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:  # not the controlling terminal
        return False


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
