"""Completion at a pseudo-terminal in each shell: the words that the shell reads after Tab."""

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
STARTS = {"bash": "exec bash --norc -i", "zsh": "exec zsh -i", "fish": "exec fish --no-config -i"}
# By default, Tab in zsh runs each $(…) before it completes, on the line of any command.
COMPLETE_ONLY = "bindkey '^I' complete-word"
READ_SCRIPT = {
    "bash": "PS1='$ '; source <(docora-ops completion bash)",
    "zsh": f"autoload -Uz compinit; compinit -D; {COMPLETE_ONLY}; PS1='$ '; "
    "source <(docora-ops completion zsh)",
    "fish": "function fish_prompt; echo '$ '; end; docora-ops completion fish | source",
}

SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}"))
    for name in STARTS
]
TAB = b"\t"
TO_THE_BEGINNING = b"\x01"


class Shell:
    """An interactive shell, its keys, and the words that it has read."""

    def __init__(self, session: TerminalSession) -> None:
        self._session = session
        self._lines = self._tabs = 0

    def words(self, typed: str) -> list[str]:
        """The words of the command after this was typed, then Tab.

        Behind the keys comes what makes the shell print the words of the line instead of running
        it; it reads that when the completion has ended.
        """
        self._lines += 1
        mark = f"__{self._lines}"
        print_words = f"printf '<%s>' {mark} ".encode()
        self._session.type(typed.encode() + TAB + f" {mark}".encode())
        self._session.type(TO_THE_BEGINNING + print_words + b"\n")
        pattern = rf"<{mark}>((?:<[^>]*>)*)<{mark}>"
        shown = self._session.read_until(re.compile(pattern.encode()))[1].decode()
        return re.findall("<([^>]*)>", shown)

    def tab(self, typed: str, tabs: int, pattern: str = "") -> None:
        """Types this, then Tab, waits until the screen matches, then clears the line."""
        self._session.type(typed.encode() + TAB * tabs)
        self._session.read_until(re.compile(pattern.encode(), re.DOTALL))
        self._tabs += 1
        self._session.type(f"\x15echo 'ta'b {self._tabs}\n".encode())
        self._session.read_until(re.compile(rf"tab {self._tabs}\r".encode()))


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
        session.type(f"{READ_SCRIPT[name]}; echo rea''dy\n".encode())
        session.read_until(re.compile(b"ready\r"))
        yield Shell(session)


HARD = 'Über: it\'s "$5" `x` \\ *~ !'
HOSTILE = ["$(touch x) p", "`touch x` p", "; touch x", "x$(touch x)'y", "p <(touch x)", "q*"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHELLS)
def test_a_name_is_one_word_and_not_evaluated(docora: Docora, tmp_path: Path, name: str) -> None:
    app = docora.add_app("Acme Search")
    docora.link(app, docora.add_repository("octo/api"))
    for other in (HARD, "Borealis", "Borealis 2", "the o'", "a@b: c", *HOSTILE):
        docora.add_app(other)
    with shell(docora, name, tmp_path) as started:
        for typed, value in (
            ("Ac", "Acme Search"),
            ("'Acme", "Acme Search"),
            ('"Acme Se', "Acme Search"),
            ("Acme\\ S", "Acme Search"),
            ("'Acme ", "Acme Search"),
            ("Ü", HARD),
            ("Über:", HARD),
            ("a@", "a@b: c"),
            ("the", "the o'"),
            ('"the', "the o'"),
            ("acme", "acme Search"),
            ("'ACME s", "ACME search"),
            ('"acme ', "acme Search"),
            ("\\$", HOSTILE[0]),
            ("\\`", HOSTILE[1]),
            ("'; t", HOSTILE[2]),
            ("x", HOSTILE[3]),
            ("'p ", HOSTILE[4]),
            ("q", HOSTILE[5]),
        ):
            words = started.words(f"docora-ops show {typed}")
            assert words == ["docora-ops", "show", value], typed
        words = started.words("docora-ops retry 'Acme Search' oc")
        assert words == ["docora-ops", "retry", "Acme Search", "octo/api"]
        assert started.words("docora-ops failed --app=Ac")[2:] == ["--app=Acme Search"]
        assert started.words("docora-ops failed --ap")[2:] == ["--app"]
        assert started.words("docora-ops --vers") == ["docora-ops", "--version"]
        assert started.words("docora-ops show --env-file a")[3:] == ["a file"]
        # What was typed is not evaluated.
        for typed in (
            'show "$(touch x) p',
            "show $(touch\\ x)p",
            'show "`touch x` p',
            "show '$(touch x) p",
            'retry "$(touch x)" p',
            'failed --app="$(touch x)',
            "failed --repo <(touch x) --app p",
            'show --env-file "$(touch x)/p',
        ):
            started.tab(f"docora-ops {typed}", 2)
        started.tab("docora-ops show Bor", 3, "Borealis[^\n]*2")
    assert not (tmp_path / "x").exists()
