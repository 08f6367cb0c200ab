"""Typer's completion at a pseudo-terminal in each shell: the words that it reads after Tab."""

import os
import re
import shutil
import sys
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
    "zsh": "exec zsh -f -i",
    "fish": "exec fish --no-config -i",
}
BEFORE = {
    "bash": "PS1='$ '",
    # By default, Tab in zsh runs each $(…) before it completes.
    "zsh": "autoload -Uz compinit; compinit -D; bindkey '^I' complete-word; PS1='$ '",
    "fish": "function fish_prompt; echo '$ '; end",
}
HOSTILE = [
    "m $(touch x)",
    "n `touch x`",
    "o; touch x",
    r"q\$(touch x)",
    "r<(touch x)",
    r"t\" $(touch x)",
]
SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}"))
    for name in STARTS
]
TAB, TO_THE_BEGINNING = b"\t", b"\x01"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHELLS)
def test_a_name_is_one_word_and_not_evaluated(docora: Docora, tmp_path: Path, name: str) -> None:
    app = docora.add_app("Zeta Search")
    docora.link(app, docora.add_repository("octo/api"))
    for other in HOSTILE:
        docora.add_app(other)
    command = tmp_path / "bin" / "docora-ops"
    command.parent.mkdir()
    command.write_text(PATIENT_COMMAND)
    command.chmod(0o755)
    environment = docora.environment(
        HOME=str(tmp_path),
        PATH=f"{command.parent}:{os.environ['PATH']}",
        TERM="xterm-256color",
        LANG="C.UTF-8",
    )
    with TerminalSession(["sh", "-c", f'cd "$HOME"; {STARTS[name]}'], environment) as session:
        script = "docora-ops --show-completion >script; . ./script"
        session.type(f"{BEFORE[name]}; {script}; echo rea''dy\n".encode())
        session.read_until(re.compile(b"ready\r"))
        for number, (typed, words) in enumerate(
            {
                "docora-ops show Ze": ["show", "Zeta Search"],
                "docora-ops show 'Zeta": ["show", "Zeta Search"],
                "docora-ops retry 'Zeta Search' oc": ["retry", "Zeta Search", "octo/api"],
                "docora-ops failed --grou": ["failed", "--group-by"],
                **{f"docora-ops show {name[0]}": ["show", name[0]] for name in HOSTILE},
            }.items()
        ):
            # What follows makes the shell print the words of the line instead of running it.
            session.type(typed.encode() + TAB + f" _{number}_".encode() + TO_THE_BEGINNING)
            session.type(f"printf '<%s>' _{number}_ ".encode() + b"\n")
            pattern = rf"<_{number}_><docora-ops>((?:<[^>]*>)*)<_{number}_>"
            shown = session.read_until(re.compile(pattern.encode()))[1].decode()
            assert re.findall("<([^>]*)>", shown) == words
    assert not (tmp_path / "x").exists()
