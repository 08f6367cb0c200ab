"""Commands at real terminals, one for stdout and one for stderr, and what they may do to them."""

import fcntl
import os
import pty
import re
import struct
import termios
import tty
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Thread

from tests.support.docora import Docora

_UNSEEN = re.compile(
    r"[\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
"""What has no glyph, or turns the order of what has one."""
_STYLE = re.compile(r"\x1b\[(?:0|[12](?:;3[1-6])?|3[1-6])m")
"""What a table is coloured with."""
_ANIMATION = re.compile(r"\x1b\[(?:\?25[lh]|2K|1A|(?:[12];)?(?:3[0-7]|9[0-7]|38;5;\d+)m)|\r")
"""What a bar moves and is coloured with."""


def assert_inert(text: str) -> None:
    """Nothing acts on a terminal, but for ends of lines, and nothing is unseen."""
    bad = {each for each in text if unicodedata.category(each)[0] == "C" or _UNSEEN.match(each)}
    assert not bad - {"\n"}, f"{sorted(bad)!a} in {text[:2000]!a}"


def plain_data(shown: str) -> str:
    """What is read of data at a terminal; nothing else than colours may have been sent there."""
    plain = _STYLE.sub("", shown)
    assert_inert(plain)
    return plain


def plain_talk(shown: str) -> str:
    """The same for conversation, which has bars that move."""
    plain = _ANIMATION.sub("", _STYLE.sub("", shown))
    assert_inert(plain)
    return plain


@dataclass(frozen=True)
class Shown:
    """What a command has shown at two terminals."""

    code: int
    data: str
    talk: str


class _Screen:
    """A terminal that takes down what is sent to it, and types the answer to a question."""

    def __init__(self, columns: int, answer: bytes) -> None:
        self.ours, self.theirs = pty.openpty()
        tty.setraw(self.theirs)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._answer = answer
        self._shown = bytearray()
        self._thread = Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self.ours, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                return
            self._shown += piece
            if self._answer and b"[y/N]" in self._shown:
                os.write(self.ours, self._answer)
                self._answer = b""

    def text(self) -> str:
        """All of it, once nobody writes any more. Raises UnicodeDecodeError."""
        self._thread.join()
        os.close(self.ours)
        return self._shown.decode()


def at_terminals(
    docora: Docora,
    arguments: Sequence[str],
    *,
    columns: int,
    answer: str = "",
    env: Mapping[str, str | None] | None = None,
    timeout: float = 60,
) -> Shown:
    """Run a command; `answer` is typed as soon as it asks something."""
    data, talk = _Screen(columns, b""), _Screen(columns, answer.encode())
    environment = docora.environment(**{"TERM": "xterm-256color", **(env or {})})
    streams = (talk.theirs, data.theirs, talk.theirs)
    with docora.fork_server.start_at(arguments, environment, streams) as process:
        os.close(data.theirs)
        os.close(talk.theirs)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            shown = data.text(), talk.text()
    return Shown(code, *shown)
