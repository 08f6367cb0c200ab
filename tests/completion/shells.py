"""bash and zsh at a pseudo-terminal, with the completion that `--install-completion` installs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
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
from docora_ops.cli import shell_completion

shell_completion._PATIENCE = 60  # a machine that is busy with other tests must not end it
main()
"""

SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}"))
    for name in ("bash", "zsh")
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

    def completes(self, typed: str, *words: str) -> None:
        """Asserts that the command has these words after Tab."""
        assert self.words(typed) == list(words), typed

    def shows(self, typed: str, tabs: int, pattern: str) -> None:
        """Waits until this is on the screen, then clears the line."""
        self._session.type(typed.encode() + TAB * tabs)
        self._session.read_until(re.compile(pattern.encode(), re.DOTALL))
        self._session.type(b"\x15")


@contextmanager
def shell(docora: Docora, name: str, home: Path, **env: str | None) -> Iterator[Shell]:
    """A shell in an empty home, in which the completion has been installed."""
    command = home / "bin" / "docora-ops"
    command.parent.mkdir()
    command.write_text(PATIENT_COMMAND)
    command.chmod(0o755)
    environment = docora.environment(
        **{
            "HOME": str(home),
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            **env,
        }
    )
    (home / ".zshrc").touch()
    # The shell that runs the command is the one that it installs for; a shell replaces itself by
    # the last command.
    install = [name, "-c", "docora-ops --install-completion; true"]
    subprocess.run(install, env=environment, check=True, capture_output=True, timeout=60)
    (home / "a file").touch()
    starting = ["sh", "-c", f'cd "$HOME" && exec {name} -i']
    with TerminalSession(starting, environment) as session:
        yield Shell(session)
