"""Shows text at a terminal, through a pager if the text is taller than the screen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import IO, cast

from docora_ops.interrupts import ENDING

_COULD_NOT_RUN = (126, 127)
"""Exit codes of a shell that could not run the pager."""
_SECRETS = {"DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "PGPASSWORD"}
"""Variables that the pager, and the shells and editors it may start, do not get."""
_KEPT = 2**20
"""Characters that are printed again if no pager could run; a pipe that nobody reads holds less."""


def show_paged(pieces: Iterable[str], height: int) -> None:
    """Writes the pieces to stdout, through the pager if they have `height` lines or more.

    Reads the pieces only as far as they are shown. Waits until the pager has ended.
    """
    rest = iter(pieces)
    lines = 0
    first = []
    while lines < height and (piece := next(rest, None)) is not None:
        first.append(piece)
        lines += piece.count("\n")
    rest = chain(first, rest)
    if lines >= height and _can_page():
        rest = _page(rest)
    for piece in rest:
        sys.stdout.write(piece)
    sys.stdout.flush()


def show_markdown(text: str) -> None:
    """Renders the text on stdout, which is a terminal."""
    from docora_ops.render.console import make_console
    from docora_ops.render.markdown import WholeMarkdown

    # Links to other topics are paths in the repository: only their text is of use here.
    text = re.sub(r"\[([^]]+)\]\([\w./#-]+\)", r"\1", text)
    console = make_console(sys.stdout)
    with console.capture() as capture:
        console.print(WholeMarkdown(text, hyperlinks=False), crop=False)
    show_paged([capture.get()], console.height)


def _can_page() -> bool:
    """Tells whether stdout is a screen, and somebody can press the keys of a pager."""
    from docora_ops.render.console import is_terminal

    if not (is_terminal(sys.stdout) and _pager()):
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _pager() -> str:
    return os.environ.get("PAGER", "less")


def _command() -> str:
    """Returns the shell command, which becomes the pager where it can: so a signal reaches it."""
    pager = _pager()
    return pager if re.search(r"[|&;<>()=\n]", pager) else f"exec {pager}"


def _page(pieces: Iterator[str]) -> Iterator[str]:
    """Shows the pieces in the pager. Returns what is still to be shown: all if it can't run."""
    sys.stdout.flush()
    variables = {name: text for name, text in os.environ.items() if name.upper() not in _SECRETS}
    process = subprocess.Popen(
        ["sh", "-c", _command()],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"LESS": "FRX", **variables},  # -R: show colours
    )
    try:
        with _leaving_keys_to(process.terminate):
            shown = _feed(cast("IO[bytes]", process.stdin), pieces)
            code = process.wait()
    except BaseException:
        process.terminate()  # the pager restores the terminal
        process.wait()
        raise
    return chain(shown, pieces) if code in _COULD_NOT_RUN else iter(())


def _feed(pager: IO[bytes], pieces: Iterator[str]) -> list[str]:
    """Writes the pieces until the pager is closed. Returns the first ones."""
    shown: list[str] = []
    size = 0
    with suppress(BrokenPipeError):
        for piece in pieces:
            if size < _KEPT:
                shown.append(piece)
                size += len(piece)
            pager.write(piece.encode(errors="backslashreplace"))
    with suppress(BrokenPipeError):
        pager.close()
    return shown


@contextmanager
def _leaving_keys_to(end: Callable[[], object]) -> Iterator[None]:
    """Leaves Ctrl-C to the pager, for which it is a key. SIGTERM and SIGHUP call `end`.

    The exit code of the command stays: its work is done. The pager does not inherit a handler, as
    it would SIG_IGN.
    """
    before = {
        number: signal.signal(number, lambda got, _: None if got == signal.SIGINT else end())
        for number in ENDING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
