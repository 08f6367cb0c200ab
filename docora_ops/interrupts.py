"""Blocks and defers signals."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # end a command or a worker


@contextmanager
def deferred(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Delays the handlers of signals until the end of the block, but not in child processes."""
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
    """Blocks signals in this thread and in threads and processes started meanwhile.

    Yields the previous mask.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
