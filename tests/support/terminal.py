"""A command at a pseudo-terminal, and what it may do to it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import unicodedata
from typing import Self

from tests.support.docora import COMMAND, Docora
from tests.support.proxy import patience

QUESTION = re.compile(rb"\[y/N\] ")
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

_STYLE = re.compile(r"\x1b\[(?:0|[12](?:;3[1-6])?|3[1-6])m")


def plain_data(shown: str) -> str:
    """What is read of data at a terminal; nothing else than colours may have been sent there."""
    plain = _STYLE.sub("", shown)
    categories = {each: unicodedata.category(each) for each in plain}
    bad = {each for each, kind in categories.items() if kind[0] == "C" or kind in {"Zl", "Zp"}}
    assert not bad - {"\n"}, f"{sorted(bad)!a} in {plain[:2000]!a}"
    return plain


class TerminalSession:
    """The installed command at a terminal of its own, of 80 columns and 24 lines."""

    def __init__(self, docora: Docora, *arguments: str) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._shown = b""
        leader = ["sh", "-c", _LEADER, os.ttyname(self._slave), str(COMMAND), *arguments]
        env, no = docora.environment(TERM="xterm-256color"), subprocess.DEVNULL
        self._process = subprocess.Popen(
            leader, env=env, stdin=no, stdout=no, stderr=no, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """All that is shown, from the beginning, until it matches."""
        end = time.monotonic() + 2 * patience()
        while not (match := pattern.search(self._shown)):
            left = max(end - time.monotonic(), 0)
            assert select.select([self._master], [], [], left)[0], self._shown
            self._shown += os.read(self._master, 65536)
        return match

    def answer(self, keys: bytes) -> tuple[int, str]:
        self.read_until(QUESTION)
        self.type(keys)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Returns the exit code and all that was shown, once the command has ended."""
        match = self.read_until(_END)
        return int(match[1]), self._shown[: match.start()].decode("utf-8", "replace")
