"""What a command does when a signal comes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.errors import CommandInterruptedError, HungUpError
from docora_ops.interrupts import ENDING, repeat_if_swallowed

if TYPE_CHECKING:
    from docora_ops.actions.bulk.run import Stop

_PATIENCE = 2
"""Seconds for the rest of what is being printed."""

_came: list[int] = []
"""The signals that have come, in their order; SIGHUP once at most."""


def interrupt_on_signals() -> None:
    """Have a signal raise KeyboardInterrupt.

    SIGHUP and SIGINT stay ignored where the process was started so, as `nohup` does.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    repeat_if_swallowed(KeyboardInterrupt, _repeat)


@contextmanager
def taking_signals() -> Iterator[None]:
    """Let signals through; before and after, `main` has them held back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interruption() -> CommandInterruptedError:
    """The error that a command ends with because of the signals that have come."""
    if signal.SIGHUP in _came[:1]:
        return HungUpError("hung up (SIGHUP)")
    return CommandInterruptedError("interrupted")


def interrupted_code() -> ExitCode:
    """The exit code of a command that a signal has ended."""
    return exit_code_of(interruption())


@contextmanager
def stopping_on_signals(stop: Stop, stop_at_once: Callable[[], object]) -> Iterator[None]:
    """The first signal ends the run after the batch in hand; a second one at once."""

    def handle() -> None:
        if stop.requested:
            stop_at_once()
        stop.requested = True
        if signal.SIGHUP in _came:
            text = b"\nHung up. Stopping after the batches in hand; SIGTERM stops at once.\n"
        else:
            text = b"\nStopping after the batches in hand. Once more to stop at once.\n"
        # Not through a console: the run may be in the middle of using it.
        # And it may be that nobody reads it any more.
        with suppress(OSError):
            os.write(sys.stderr.fileno(), text)

    with handling_signals(handle):
        yield


@contextmanager
def finishing_first(*, is_all: bool) -> Iterator[None]:
    """A signal waits until what is being printed is whole, but not for long.

    It may be that nobody reads it. A second signal ends us at once. `is_all`: nothing is left to
    be stopped then, and nothing more may be said; otherwise the signal has its usual effect.
    """
    is_waiting = False

    def end(*_: object) -> None:
        os._exit(interrupted_code())

    def handle() -> None:
        nonlocal is_waiting
        if is_waiting:
            end()
        is_waiting = True
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    with handling_signals(handle):
        yield
    if is_waiting:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not is_all:
            _repeat()


@contextmanager
def handling_signals(handle: Callable[[], object]) -> Iterator[None]:
    """Call this whenever a signal comes, unless it is ignored or a second SIGHUP."""

    def handler(number: int, frame: FrameType | None) -> None:
        if _is_new(number):
            handle()

    numbers = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_new(number):
        raise KeyboardInterrupt


def _is_new(number: int) -> bool:
    """Notes a signal. A second SIGHUP tells nothing new: a closed terminal often sends two.

    The shell sends one to its jobs, the kernel another when the shell has ended.
    """
    if number == signal.SIGHUP and number in _came:
        return False
    _came.append(number)
    return True


def _repeat() -> None:
    """The signal that came last comes again."""
    signal.raise_signal(_came.pop())
