"""Blocks signals, and repeats the interrupts that Python ignores.

If an exception is raised in a destructor, a weakref callback or a hook of `fork`, Python ignores it
and prints "Exception ignored in …". A signal handler that raises just then has no effect.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a command or a worker."""
_NOTICED_AFTER = 0.1  # seconds until a sleeping run notices that it is to stop
_SOON = 0.05  # seconds until a destructor has probably ended; if not, it is ignored again


@dataclass(slots=True)
class Stop:
    """Asks a long run to end early. A signal handler sets it; the run looks at it."""

    requested: bool = False

    def sleep(self, seconds: float) -> None:
        """Sleeps, but no longer than until a stop is requested."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _NOTICED_AFTER))


def repeat_if_swallowed(kind: type[BaseException], repeat: Callable[[], object]) -> None:
    """Calls `repeat` in the main thread a moment after Python has ignored such an exception.

    Uses SIGALRM. Only signal handlers may raise this kind of exception.
    """
    before = sys.unraisablehook

    def hook(swallowed: UnraisableHookArgs) -> None:
        error = swallowed.exc_value
        while error is not None and not isinstance(error, kind):
            error = error.__context__
        if error is None:
            before(swallowed)
            return
        signal.signal(signal.SIGALRM, lambda *_: repeat())
        signal.setitimer(signal.ITIMER_REAL, _SOON)

    sys.unraisablehook = hook


@contextmanager
def deferred(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Calls the handlers of these signals after the block. For the main thread.

    Unlike blocked signals, they are not deferred in a process that is started in the block, too.
    """
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in came:
            signal.raise_signal(caught)


@contextmanager
def held_back(
    signals: Iterable[signal.Signals] = ENDING,
) -> Iterator[set[int | signal.Signals]]:
    """Blocks `signals`, by default the signals that end a process. Yields the previous mask.

    A thread that is started meanwhile receives none of them. Python runs signal handlers in the
    main thread, and a signal that the system delivers to another thread does not wake it.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
