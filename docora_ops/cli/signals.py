"""What a command does when a signal comes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from docora_ops.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from docora_ops.actions.bulk import Stop

_PATIENCE = 2
"""Seconds for the rest of what is being printed."""


@contextmanager
def stopping_on_signals(stop: Stop, stop_at_once: Callable[[], object]) -> Iterator[None]:
    """The first signal ends the run after the batch in hand; a second one at once."""

    def handle() -> None:
        if stop.requested:
            stop_at_once()
        stop.requested = True
        # Not through a console: the run may be in the middle of using it.
        # And it may be that nobody reads it any more.
        with suppress(OSError):
            os.write(
                sys.stderr.fileno(),
                b"\nStopping after the batches in hand. Once more to stop at once.\n",
            )

    with handling_signals(handle):
        yield


@contextmanager
def finishing_first(*, is_all: bool) -> Iterator[None]:
    """A signal waits until what is being printed is whole, but not for long.

    It may be that nobody reads it. A second signal ends us at once. `is_all`: nothing is left to
    be stopped then, and nothing more may be said; otherwise the signal has its usual effect.
    """
    came = False

    def end(*_: object) -> None:
        os._exit(ExitCode.INTERRUPTED)

    def handle() -> None:
        nonlocal came
        if came:
            end()
        came = True
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    with handling_signals(handle):
        yield
    if came:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not is_all:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def handling_signals(handle: Callable[[], object]) -> Iterator[None]:
    """Call this whenever SIGINT or SIGTERM comes."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: handle()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
