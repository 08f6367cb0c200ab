"""Standard streams that never keep a command from doing its work, and the pager."""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import cast

_SECRETS = {"DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "PGPASSWORD"}
_SECRETS |= {name.lower() for name in _SECRETS}  # the settings are read in either case


class OutputStream(TextIOWrapper):
    """Stdout or stderr. Drops the rest of the output once its reader has gone or its disk is full.

    So a command finishes its work, with the right exit code, whether or not anybody reads.
    """

    failure: OSError | None = None

    def write(self, text: str) -> int:
        """Writes the text, or drops it."""
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def guard_streams() -> OutputStream:
    """Opens the standard streams that are closed, and guards stdout and stderr. Returns stdout."""
    nowhere = Path(os.devnull).open
    sys.stdin = sys.stdin or nowhere(encoding="utf-8")
    for name in ("stdout", "stderr"):
        stream = cast("TextIOWrapper", getattr(sys, name) or nowhere("w", encoding="utf-8"))
        is_live, encoding = name == "stderr" or stream.line_buffering, stream.encoding
        # A character that can't be encoded must not end the command.
        guarded = OutputStream(
            stream.detach(), encoding, "backslashreplace", line_buffering=is_live
        )
        setattr(sys, name, guarded)
    return cast("OutputStream", sys.stdout)


def show_paged(text: str, height: int) -> None:
    """Writes the text to stdout, through the pager if it has `height` lines or more.

    Waits until the pager has ended. Meanwhile signals do not end the command: Ctrl-C is a key of
    the pager.
    """
    from rich.pager import SystemPager

    from docora_ops.render.console import is_terminal

    is_off = os.environ.get("PAGER") == "" or not is_terminal(sys.stdout)
    if is_off or text.count("\n") < height or not is_foreground(sys.stdout.fileno()):
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    os.environ.setdefault("LESS", "FRX")  # R: show colours
    for name in os.environ.keys() & _SECRETS:  # a pager may run other programs
        del os.environ[name]
    SystemPager().show(text)


def is_foreground(terminal: int) -> bool:
    """Tells whether the controlling terminal is ours to read: it stops a background job.

    Returns False for a descriptor of anything else.
    """
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
