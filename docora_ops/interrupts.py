"""Blocks and defers signals, and repeats the interrupts that Python ignores."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a command or a worker."""
_SOON = 0.05  # seconds until a destructor has probably ended; if not, it is ignored again


@dataclass(slots=True)
class Stop:
    """Asks a long run to end early. A signal handler sets it; the run looks at it."""

    requested: bool = False


def repeat_if_swallowed(kind: type[BaseException], repeat: Callable[[], object]) -> None:
    """Calls `repeat` in the main thread just after Python has ignored an exception of this kind."""
    # Python ignores what a signal handler raises during a destructor or a weakref callback.
    before = sys.unraisablehook

    def hook(swallowed: "sys.UnraisableHookArgs") -> None:
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
    """Calls the handlers of these signals after the block. Processes started in it get them."""
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
def held_back(signals: Iterable[signal.Signals] = ENDING) -> Iterator[set[int | signal.Signals]]:
    """Blocks signals, also in threads that are started meanwhile. Yields the previous mask."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
