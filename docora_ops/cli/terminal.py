"""The signals that end a command, the standard streams, and confirmation prompts."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, TextIO

from docora_ops.errors import CommandInterruptedError, HungUpError, UsageError
from docora_ops.text import inert

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import ReadableBuffer

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []
_announcements: list[str] = []  # of the blocks that finish first


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the block.

    Afterwards, the three signals are blocked. One that was ignored when the process started, as
    with `nohup`, stays ignored.
    """
    for number in _SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _handle(number: int, _: FrameType | None) -> None:
    # When a terminal is closed, the shell and the kernel often send a SIGHUP each.
    if number == signal.SIGHUP and number in _received:
        return
    _received.append(number)
    if not _announcements:
        raise KeyboardInterrupt
    if len(_received) > 1:
        os._exit(interruption().exit_code)  # Postgres rolls back what is not committed
    with suppress(OSError):  # bypasses the buffer, which may be in use
        os.write(2, f"\n{_announcements[-1]}\n".encode())


@contextmanager
def finishing_first(announcement: str) -> Iterator[None]:
    """Has the first signal print the announcement only; a second one ends the process.

    The block looks at `is_interrupted` and ends when it can.
    """
    _announcements.append(announcement)
    try:
        yield
    finally:
        _announcements.pop()


def is_interrupted() -> bool:
    """Tells whether a signal has come."""
    return bool(_received)


def interruption() -> CommandInterruptedError:
    """Returns the error for a command that was ended by a signal."""
    if signal.SIGHUP in _received[:1]:
        return HungUpError("hung up (SIGHUP)")
    return CommandInterruptedError("interrupted")


class OutputFile(FileIO):
    """The file of stdout or stderr. Drops all output once the reader has gone or the disk is full.

    This lets a command finish its work, with the right exit code, even if nobody reads.
    """

    failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Writes the bytes, or drops them."""
        try:
            while (count := super().write(data)) is None:  # another process made it non-blocking
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes
        return count


def guard_streams() -> OutputFile:
    """Opens closed standard streams, and makes stdout and stderr write to OutputFiles.

    Returns the OutputFile of stdout.
    """
    sys.stdin = sys.stdin or Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - stays open
    outputs = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(  # noqa: SIM115 - stays open
            os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False
        )
        outputs.append(OutputFile(stream.fileno(), "w", closefd=False))
        is_live = name == "stderr" or stream.line_buffering
        # A character that can't be encoded must not end the command.
        guarded = TextIOWrapper(
            BufferedWriter(outputs[-1]), stream.encoding, "backslashreplace", line_buffering=is_live
        )
        setattr(sys, name, guarded)
    return outputs[0]


def terminal_to_ask() -> TextIO | None:
    """Returns the controlling terminal, opened for a prompt; None if there is none.

    Raises UsageError in a background job of the terminal, which may not read from it.
    """
    try:
        number = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    if os.tcgetpgrp(number) != os.getpgrp():
        os.close(number)
        raise UsageError(
            "a job in the background can't ask for confirmation",
            hint="add --yes, or bring it to the foreground with fg",
        )
    raw = FileIO(number, "r+")
    return TextIOWrapper(_Duplex(raw), "utf-8", "backslashreplace", write_through=True)


class _Duplex(BufferedWriter):
    """Reads lines without a buffer, which would swallow what is typed after the answer."""

    def readable(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002
        answer = b""
        while not answer.endswith(b"\n") and (key := os.read(self.fileno(), 1)):
            answer += key
        return answer


def confirm(terminal: TextIO, question: str, above: str = "") -> None:
    """Prints `above` and the question, and reads the answer.

    Raises CommandInterruptedError unless the answer is yes.
    """
    answer = b""
    with suppress(OSError, termios.error):  # the terminal was closed
        # Discards keys that were pressed before the question appeared.
        termios.tcflush(terminal.fileno(), termios.TCIFLUSH)
        width = os.get_terminal_size(terminal.fileno()).columns
        question = fill(f"{inert(question)} [y/N]", max(width, 40), break_long_words=False)
        terminal.write(f"{above}{question} ")
        terminal.flush()
        answer = terminal.buffer.readline()
    if answer.strip().lower() not in {b"y", b"yes"}:
        raise CommandInterruptedError("not confirmed: nothing was changed")
