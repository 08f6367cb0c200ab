"""Reactions of a command to signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import TypeVar

from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.streams import write_at_once
from docora_ops.errors import CommandInterruptedError, HungUpError
from docora_ops.interrupts import ENDING, Stop, repeat_if_swallowed

_PATIENCE = 2
"""Seconds that a reader gets to take the rest of the output."""

T = TypeVar("T")

_came: list[int] = []
"""The signals received, in their order; SIGHUP once at most."""


def interrupt_on_signals() -> None:
    """Makes SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt.

    SIGHUP and SIGINT stay ignored if the process was started so, for example by `nohup`.
    """
    for number in ENDING:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal(interrupt))
    repeat_if_swallowed(KeyboardInterrupt, _repeat)


def interrupt() -> None:
    """Raises KeyboardInterrupt."""
    raise KeyboardInterrupt


@contextmanager
def taking_signals() -> Iterator[None]:
    """Lets signals through: before and after, they are blocked by `main`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interruption() -> CommandInterruptedError:
    """Returns the error for a command that was ended by a signal."""
    if signal.SIGHUP in _came[:1]:
        return HungUpError("hung up (SIGHUP)")
    return CommandInterruptedError("interrupted")


def ended_by_ctrl_c() -> bool:
    """Tells whether the first signal was SIGINT."""
    return signal.SIGINT in _came[:1]


def interrupted_code() -> ExitCode:
    """Returns the exit code of a command that was ended by a signal."""
    return exit_code_of(interruption())


@contextmanager
def stopping_on_signals(
    stop: Stop, stop_at_once: Callable[[], object], *, announced: bool = True
) -> Iterator[None]:
    """Has the first signal request a stop, and a second one call `stop_at_once`."""

    def handle() -> None:
        if stop.requested:
            stop_at_once()
        stop.requested = True
        if not announced:
            return
        why = "Hung up. " if signal.SIGHUP in _came else ""
        write_at_once(
            f"\n{why}Stopping after the current batches. A second signal stops at once.\n"
        )

    with _handling_signals(handle):
        yield


def until_stopped(events: Generator[T], stop: Stop) -> Iterator[T]:
    """Yields the events of an action until the first signal, then closes the action.

    A second signal ends the command.
    """
    with stopping_on_signals(stop, interrupt, announced=False), closing(events):
        for event in events:
            yield event
            if stop.requested:
                return


@contextmanager
def finishing_first(*, is_all: bool) -> Iterator[None]:
    """Delays a signal until the output is complete, but not for long: nobody may be reading.

    A second signal exits at once. With `is_all` the output is the last thing that the command does,
    so the delayed signal has no effect; otherwise it has its usual effect.
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

    with _handling_signals(handle):
        yield
    if is_waiting:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not is_all:
            _repeat()


@contextmanager
def _handling_signals(handle: Callable[[], object]) -> Iterator[None]:
    numbers = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _on_signal(handle)) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def _on_signal(handle: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
    def handler(number: int, frame: FrameType | None) -> None:
        # A closed terminal often sends two SIGHUPs: the shell one, and the kernel another.
        if number == signal.SIGHUP and number in _came:
            return
        _came.append(number)
        handle()

    return handler


def _repeat() -> None:
    signal.raise_signal(_came.pop())
