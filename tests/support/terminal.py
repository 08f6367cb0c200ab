"""The command at a pseudo-terminal, its controlling one."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self

from tests.support.docora import COMMAND, Docora

# Opened by a session's leader, it becomes the session's controlling terminal. Once the leader ends,
# the kernel throws away what nobody has read yet: so it waits.
_LEADER = """
exec <>"$0" >&0 2>&0
trap : INT
"$@"
printf '\\n[exit %s]\\n' $?
read -r _
"""
_END = re.compile(rb"(?:\r\n|\n)\[exit (\d+)\]\r?\n\Z")


class TerminalSession:
    """A command in a session of its own, on a pseudo-terminal of its own."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], columns: int = 100
    ) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._shown = b""
        self._process = subprocess.Popen(
            ["sh", "-c", _LEADER, os.ttyname(self._slave), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """Take the terminal away, as a lost ssh line does."""
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1

    def type(self, keys: bytes) -> None:
        """What a person types."""
        os.write(self._master, keys)

    def read_until(self, pattern: re.Pattern[bytes], timeout: float = 60) -> re.Match[bytes]:
        """All that is shown, from the beginning, until it matches."""
        end = time.monotonic() + timeout
        while not (match := pattern.search(self._shown)):
            left = max(end - time.monotonic(), 0)
            assert select.select([self._master], [], [], left)[0], self._shown
            self._shown += os.read(self._master, 65536)
        return match

    def end(self, timeout: float = 60) -> tuple[int, str]:
        """The exit code of the command, and all that it has shown."""
        match = self.read_until(_END, timeout)
        return int(match[1]), self._shown[: match.start()].decode("utf-8", "replace")


QUESTION = re.compile(rb"\[y/N\] ")


def on_terminal(
    docora: Docora,
    arguments: Sequence[str],
    *,
    answers: str | bytes = "",
    redirect: str = "",
    columns: int = 100,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 60,
) -> tuple[int, str]:
    """Run the installed command on a pseudo-terminal; returns its exit code and what it showed.

    `answers` is typed as soon as the command asks something; `redirect` is what a shell reads
    behind the command.
    """
    command = [str(COMMAND), *arguments]
    if redirect:
        command = ["sh", "-c", f'"$0" "$@" {redirect}', *command]
    environment = docora.environment(**{"TERM": "xterm-256color", **(env or {})})
    with TerminalSession(command, environment, columns) as session:
        if answers:
            asked = session.read_until(re.compile(QUESTION.pattern + b"|" + _END.pattern), timeout)
            if QUESTION.match(asked[0]):
                session.type(answers if isinstance(answers, bytes) else answers.encode())
        return session.end(timeout)
