"""Handles, blocks and defers signals."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle_ending(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Sets the handler of the signals that end a worker; returns the previous handlers.

    If the process was started with SIGHUP ignored, for example by `nohup`, SIGHUP stays ignored.
    """
    return {
        number: signal.signal(number, handler)
        for number in _ENDING
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }


@contextmanager
def deferred(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Delays the handlers of these signals until the `with` block ends.

    Unlike `blocked`, has no effect on programs that the block starts.
    """
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda sent, _: came.append(sent)) for number in signals
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for sent in came:
            signal.raise_signal(sent)


@contextmanager
def blocked(signals: Iterable[signal.Signals] = _ENDING) -> Iterator[set[int | signal.Signals]]:
    """Blocks signals until the `with` block ends. Yields the previous mask.

    Threads and processes that start within the `with` block keep the signals blocked.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
