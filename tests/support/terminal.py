"""Commands at pseudo-terminals, and what they may do to them."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import tty
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Self

from tests.support.docora import Docora, Env
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
_ANIMATION = re.compile(r"\x1b\[(?:\?25[lh]|2K|1A|(?:[12];)?(?:3[0-7]|9[0-7]|38;5;\d+)m)|\r")


def assert_inert(text: str) -> None:
    categories = {each: unicodedata.category(each) for each in text}
    bad = {each for each, kind in categories.items() if kind[0] == "C" or kind in {"Zl", "Zp"}}
    assert not bad - {"\n"}, f"{sorted(bad)!a} in {text[:2000]!a}"


def plain_data(shown: str) -> str:
    """What is read of data at a terminal; nothing else than colours may have been sent there."""
    plain = _STYLE.sub("", shown)
    assert_inert(plain)
    return plain


def plain_talk(shown: str) -> str:
    plain = _ANIMATION.sub("", _STYLE.sub("", shown))
    assert_inert(plain)
    return plain


def open_terminal(columns: int, lines: int = 50) -> tuple[int, int]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    return ours, theirs


class TerminalSession:
    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], columns: int = 100, lines: int = 50
    ) -> None:
        self._master, self._slave = open_terminal(columns, lines)
        self._shown = b""
        leader = ["sh", "-c", _LEADER, os.ttyname(self._slave), *command]
        no = subprocess.DEVNULL
        self._process = subprocess.Popen(
            leader, env=env, stdin=no, stdout=no, stderr=no, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1

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
        match = self.read_until(_END)
        return int(match[1]), self._shown[: match.start()].decode("utf-8", "replace")


@dataclass(frozen=True)
class Shown:
    code: int
    data: str
    talk: str


class _Screen:
    """A terminal that takes down what is sent to it, and types the answer to a question."""

    def __init__(
        self, columns: int, answer: bytes = b"", *, lines: int = 50, raw: bool = False
    ) -> None:
        self._ours, self.theirs = open_terminal(columns, lines)
        if raw:
            tty.setraw(self.theirs)
        self._answer, self._shown = answer, bytearray()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                self._shown += os.read(self._ours, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                return
            if self._answer and QUESTION.search(self._shown):
                os.write(self._ours, self._answer)
                self._answer = b""

    def content(self, errors: str = "strict") -> str:
        """All that was sent to it, once no process has it open any more."""
        self._thread.join(60)
        assert not self._thread.is_alive(), "a process has the terminal open still"
        os.close(self._ours)
        return self._shown.decode(errors=errors)


def at_terminals(
    docora: Docora, arguments: Sequence[str], *, columns: int, answer: str = "", env: Env = None
) -> Shown:
    """Run a command at two raw terminals, one for stdout only. Raises UnicodeDecodeError."""
    data = _Screen(columns, raw=True)
    talk = _Screen(columns, answer.encode(), raw=True)
    code = _run_at(docora, arguments, env, data, talk)
    return Shown(code, data.content(), talk.content())


def on_terminal(
    docora: Docora,
    arguments: Sequence[str],
    *,
    answer: bytes = b"",
    columns: int = 100,
    lines: int = 50,
    env: Env = None,
) -> tuple[int, str]:
    """Run a command at a terminal; returns its exit code and what it showed."""
    screen = _Screen(columns, answer, lines=lines)
    code = _run_at(docora, arguments, env, screen, screen)
    return code, screen.content("replace")


def _run_at(
    docora: Docora, arguments: Sequence[str], env: Env, data: _Screen, talk: _Screen
) -> int:
    """Run a command, and close its side of the terminals; returns its exit code."""
    environment = docora.environment(**{"TERM": "xterm-256color", **(env or {})})
    streams = (talk.theirs, data.theirs, talk.theirs)
    with docora.fork_server.start(arguments, environment, streams) as process:
        for descriptor in {data.theirs, talk.theirs}:
            os.close(descriptor)
        return process.wait(2 * patience())  # killed where it takes longer
