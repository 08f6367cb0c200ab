"""The signals that end a command, the standard streams, and confirmation prompts.

Prompts also work with redirected streams.
"""

import os
import select
import signal
import sys
import termios
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO, TypeVar

from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.errors import CommandInterruptedError, HungUpError, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 2  # seconds that a reader gets to take the rest of a document
_REPEAT_DELAY = 0.05  # seconds until a swallowed signal is repeated: the destructor must end


def _interrupt() -> None:
    raise KeyboardInterrupt


_received: list[int] = []
"""Signals in the order of arrival; SIGHUP at most once."""
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
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(_received.pop()))
        signal.setitimer(signal.ITIMER_REAL, _REPEAT_DELAY)

    sys.unraisablehook = repeat_if_swallowed
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def _handle(number: int, frame: FrameType | None) -> None:
    # When a terminal is closed, the shell and the kernel often send a SIGHUP each.
    if number != signal.SIGHUP or number not in _received:
        _received.append(number)
        _reactions[-1]()


def is_interrupted() -> bool:
    """Tells whether a signal has come."""
    return bool(_received)


def until_interrupted(events: Generator[T], announcement: str = "") -> Generator[T]:
    """Yields the events of an action until the first signal, then closes the action.

    A second signal ends the process. If the caller closes this generator, the action stays open,
    and signals have their previous effect again.

    announcement: the line that the first signal prints to stderr.
    """

    def react() -> None:
        if len(_received) > 1:
            _end_process()
        if announcement:
            why = "Hung up. " if signal.SIGHUP in _received else ""
            # Bypasses the buffer, which may have been in use when the signal came.
            with suppress(OSError):
                os.write(2, f"\n{why}{announcement}\n".encode())

    with _reacting(react):
        for event in events:
            yield event
            if _received:
                events.close()
                return


@contextmanager
def finishing_first() -> Iterator[None]:
    """Delays the first signal until the `with` block has ended.

    Ends the process at a second signal, or 2 s after the first one if the block is still running,
    perhaps because nobody reads the output.
    """
    before = len(_received)

    def react() -> None:
        if len(_received) > before + 1:
            _end_process()
        signal.signal(signal.SIGALRM, _end_process)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    with _reacting(react):
        yield
    if len(_received) > before:
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
    if signal.SIGHUP in _received[:1]:
        return HungUpError("hung up (SIGHUP)")
    return CommandInterruptedError("interrupted")


def interrupted_code() -> ExitCode:
    """Returns the exit code of a command that was ended by a signal."""
    return exit_code_of(interruption())


class OutputFile(FileIO):
    """The file of stdout or stderr. Drops all output once the reader has gone or the disk is full.

    This lets a command finish its work, with the right exit code, even if nobody reads.
    """

    failure: OSError | None = None

    def write(self, data: "ReadableBuffer") -> int:
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
    nowhere = Path(os.devnull).open
    sys.stdin = sys.stdin or nowhere(encoding="utf-8")
    outputs = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(  # noqa: SIM115 - stays open
            os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False
        )
        outputs.append(OutputFile(stream.fileno(), "w", closefd=False))
        is_live = name == "stderr" or stream.line_buffering
        # A character that can't be encoded must not end the command.
        guarded = TextIOWrapper(
            BufferedWriter(outputs[-1]),
            stream.encoding,
            "backslashreplace",
            line_buffering=is_live,
        )
        setattr(sys, name, guarded)
    return outputs[0]


def has_failed(stream: TextIO) -> bool:
    """Tells whether output was dropped, because nobody reads it or the disk is full."""
    output = getattr(getattr(stream, "buffer", None), "raw", None)
    return isinstance(output, OutputFile) and output.failure is not None


def is_foreground(terminal: int) -> bool:
    """Tells whether this process is in the foreground of the terminal, and so may read from it."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # not the controlling terminal
        return False


@dataclass
class Terminal:
    """The controlling terminal of the process; without one, the terminal of stdin and stderr."""

    _reader: int
    _writer: int

    def ask(self, question: str, *above: object) -> None:
        """Prints `above`, then the question as inert text, and reads the answer.

        Raises CommandInterruptedError unless the answer is yes; HungUpError if the terminal is
        closed in the meantime.
        """
        from rich.text import Text

        from docora_ops.render.console import make_console
        from docora_ops.text import inert

        answer = b""
        with suppress(OSError, termios.error):  # the terminal was closed
            # Discards keys that were pressed before the question appeared.
            termios.tcflush(self._reader, termios.TCIFLUSH)
            encoding = sys.stderr.encoding
            with (
                os.fdopen(self._reader, "rb", 0, closefd=False) as reader,
                open(self._writer, "w", 1, encoding, "backslashreplace", closefd=False) as writer,
            ):
                console = make_console(writer)
                for renderable in above:
                    console.print(renderable)
                console.print(Text(inert(question)), end=" ")
                console.print("[y/N] ", end="", markup=False, soft_wrap=True)
                try:
                    answer = reader.readline()  # bytes, because the encoding is unknown
                finally:
                    if not answer:
                        console.print()
        is_closed = not answer and not os.isatty(self._reader)
        if is_closed and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            # The closed terminal has ended the input before SIGHUP came.
            raise HungUpError("hung up (SIGHUP)")
        if self._reader == self._writer:  # /dev/tty was opened only for the question
            os.close(self._reader)
        if answer.strip().lower() not in {b"y", b"yes"}:
            raise CommandInterruptedError("nothing was changed")


def terminal_to_ask() -> Terminal | None:
    """Returns the terminal for a question, if any. Raises UsageError in a background job."""
    try:
        reader = writer = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        # There is no controlling terminal, as in cron, CI or a container. After `su -c`, stdin and
        # stderr may still be a terminal.
        if sys.stdin.isatty() and sys.stderr.isatty():
            return Terminal(sys.stdin.fileno(), sys.stderr.fileno())
        return None
    if not is_foreground(reader):
        raise UsageError(
            "a background job can't ask for confirmation",
            hint="run it in the foreground, or add --yes",
        )
    return Terminal(reader, writer)
