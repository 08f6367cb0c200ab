"""bash and zsh at a pseudo-terminal, with the script that `docora-ops completion` prints."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.docora import Docora
from tests.support.terminal import TerminalSession

PATIENT_COMMAND = f"""\
#!{sys.executable}
from docora_ops.__main__ import main
from docora_ops.cli import app

app._COMPLETION_SECONDS = 60  # a machine that is busy with other tests must not end it
main()
"""
STARTS = {
    "bash": "exec bash --norc -i",
    "zsh": "exec zsh -i",
}
# By default, Tab in zsh runs each $(…) before it completes, on the line of any command.
COMPLETE_ONLY = "bindkey '^I' complete-word"
BEFORE_SCRIPT = {
    "bash": "PS1='$ '",
    "zsh": f"autoload -Uz compinit; compinit -D; {COMPLETE_ONLY}; PS1='$ '",
}

SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}"))
    for name in STARTS
]
TAB = b"\t"
TO_THE_BEGINNING = b"\x01"
PRINT_WORDS = b"printf '<%s>' __ "


class Shell:
    """An interactive shell, its keys, and the words that it has read."""

    def __init__(self, session: TerminalSession) -> None:
        self._session = session
        self._lines = 0

    def words(self, typed: str) -> list[str]:
        """The words of the command after this was typed, then Tab.

        Behind the keys comes what makes the shell print the words of the line instead of running
        it; it reads that when the completion has ended.
        """
        self._lines += 1
        self._session.type(typed.encode() + TAB + b" __" + TO_THE_BEGINNING + PRINT_WORDS + b"\n")
        pattern = rf"(?:<__>(?:<[^>]*>)*<__>.*?){{{self._lines}}}"
        shown = self._session.read_until(re.compile(pattern.encode(), re.DOTALL))[0].decode()
        last = re.findall(r"<__>((?:<[^>]*>)*)<__>", shown, re.DOTALL)[-1]
        return re.findall("<([^>]*)>", last)

    def tab(self, typed: str, tabs: int, pattern: str) -> None:
        """Types this, then Tab, waits until the screen matches, then clears the line."""
        self._session.type(typed.encode() + TAB * tabs)
        self._session.read_until(re.compile(pattern.encode(), re.DOTALL))
        self._session.type(b"\x15")


@contextmanager
def shell(docora: Docora, name: str, home: Path) -> Iterator[Shell]:
    """A shell in an empty home, in which the script has been read."""
    command = home / "bin" / "docora-ops"
    command.parent.mkdir()
    command.write_text(PATIENT_COMMAND)
    command.chmod(0o755)
    environment = docora.environment(
        HOME=str(home),
        PATH=f"{command.parent}:{os.environ['PATH']}",
        TERM="xterm-256color",
        LANG="C.UTF-8",
    )
    (home / ".zshrc").touch()
    (home / "a file").touch()
    with TerminalSession(["sh", "-c", f'cd "$HOME"; {STARTS[name]}'], environment) as session:
        script = f"source <(docora-ops completion {name}); echo rea''dy\n"
        session.type(f"{BEFORE_SCRIPT[name]}; {script}".encode())
        session.read_until(re.compile(b"ready\r"))
        yield Shell(session)
