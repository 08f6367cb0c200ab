"""Questions at the controlling terminal, whatever stdin, stdout and stderr are."""

import os
import signal
import sys
import termios
from contextlib import suppress

from docora_ops.errors import CommandInterruptedError, HungUpError, UsageError

_YES = frozenset({b"y", b"yes"})


class Terminal:
    """The controlling terminal of the process or, without one, that of stdin and stderr."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer

    def require_foreground(self) -> None:
        """Raises UsageError in a background job: the kernel stops one that reads the terminal."""
        with suppress(OSError):  # not the controlling terminal
            if os.tcgetpgrp(self._reader) != os.getpgrp():
                raise UsageError(
                    "a background job can't ask for confirmation",
                    hint="run it in the foreground, or add --yes",
                )

    def ask(self, question: str, *above: object) -> None:
        """Prints `above` and the question, as inert text, and reads the answer.

        Raises CommandInterruptedError unless the answer is yes, HungUpError if the terminal is
        closed meanwhile, and UsageError in a background job.
        """
        from docora_ops.render.console import make_console
        from docora_ops.text import inert

        answer = b""
        with suppress(OSError, termios.error):  # the terminal is closed
            self.require_foreground()
            # Drops the keys that were pressed before the question appeared.
            termios.tcflush(self._reader, termios.TCIFLUSH)
            encoding = sys.stderr.encoding
            with (
                os.fdopen(self._reader, "rb", 0, closefd=False) as reader,
                open(self._writer, "w", 1, encoding, "backslashreplace", closefd=False) as writer,
            ):
                console = make_console(writer)
                for renderable in above:
                    console.print(renderable)
                console.print(inert(question), end="")
                console.print(" [y/N] ", end="", soft_wrap=True)
                try:
                    answer = reader.readline()  # bytes: it may be in any encoding
                finally:
                    if not answer:
                        console.print()
        is_closed = not answer and not os.isatty(self._reader)
        if is_closed and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            # The end of the input came before the signal.
            raise HungUpError("hung up (SIGHUP)")
        if answer.strip().lower() not in _YES:
            raise CommandInterruptedError("nothing was changed")


def terminal_to_ask(*, skip: bool) -> Terminal | None:
    """Returns the terminal to ask a question at, None with `skip` and without a terminal.

    Raises UsageError in a background job.
    """
    if skip:
        return None
    try:
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        terminal = Terminal(descriptor, descriptor)
    except OSError:
        # Without a controlling terminal, as in cron, CI or a container. But `su -c` takes only
        # the controlling one away.
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        terminal = Terminal(sys.stdin.fileno(), sys.stderr.fileno())
    terminal.require_foreground()
    return terminal
