"""Handles the signals that end a command."""

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.errors import CommandInterruptedError, HungUpError

T = TypeVar("T")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 2  # seconds that a reader gets to take the rest of a document
_SOON = 0.05  # seconds until a swallowed signal is repeated, so that the destructor can end


def _interrupt() -> None:
    raise KeyboardInterrupt


_came: list[int] = []
"""The signals received, in their order; SIGHUP at most once."""
_reactions: list[Callable[[], None]] = [_interrupt]
"""A signal calls the last of these functions."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the `with` block.

    Afterwards, the three signals are blocked. If SIGHUP or SIGINT was ignored when the process
    started, as with `nohup`, it stays ignored.
    """
    for number in _ENDING:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    before = sys.unraisablehook

    def repeat_if_swallowed(swallowed: "sys.UnraisableHookArgs") -> None:
        # Python drops what a signal handler raises during a destructor or a weakref callback.
        error = swallowed.exc_value
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        if error is None:
            before(swallowed)
            return
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(_came.pop()))
        signal.setitimer(signal.ITIMER_REAL, _SOON)

    sys.unraisablehook = repeat_if_swallowed
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def _handle(number: int, frame: FrameType | None) -> None:
    # When a terminal is closed, the shell and the kernel often send a SIGHUP each.
    if number != signal.SIGHUP or number not in _came:
        _came.append(number)
        _reactions[-1]()


def is_interrupted() -> bool:
    """Tells whether a signal has come."""
    return bool(_came)


def until_interrupted(events: Generator[T], announcement: str = "") -> Generator[T]:
    """Yields the events of an action until the first signal, then closes the action.

    A second signal ends the process. If the caller closes this generator, the action stays open,
    and signals have their previous effect again.

    announcement: the line that the first signal prints to stderr.
    """

    def react() -> None:
        if len(_came) > 1:
            _end_process()
        if announcement:
            why = "Hung up. " if signal.SIGHUP in _came else ""
            # Bypasses the buffer, which may have been in use when the signal came.
            with suppress(OSError):
                os.write(2, f"\n{why}{announcement}\n".encode())

    with _reacting(react):
        for event in events:
            yield event
            if _came:
                events.close()
                return


@contextmanager
def finishing_first() -> Iterator[None]:
    """Delays the first signal until the `with` block has ended.

    Ends the process at a second signal, or 2 s after the first one if the block is still running,
    perhaps because nobody reads the output.
    """
    before = len(_came)

    def react() -> None:
        if len(_came) > before + 1:
            _end_process()
        signal.signal(signal.SIGALRM, _end_process)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    with _reacting(react):
        yield
    if len(_came) > before:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reactions[-1]()


@contextmanager
def _reacting(react: Callable[[], None]) -> Iterator[None]:
    """Calls `react` when a signal comes during the `with` block."""
    _reactions.append(react)
    try:
        yield
    finally:
        _reactions.remove(react)


def _end_process(*_: object) -> None:
    os._exit(interrupted_code())  # Postgres rolls back what is not committed


def interruption() -> CommandInterruptedError:
    """Returns the error for a command that was ended by a signal."""
    if signal.SIGHUP in _came[:1]:
        return HungUpError("hung up (SIGHUP)")
    return CommandInterruptedError("interrupted")


def interrupted_code() -> ExitCode:
    """Returns the exit code of a command that was ended by a signal."""
    return exit_code_of(interruption())
