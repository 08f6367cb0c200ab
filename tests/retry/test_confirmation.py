"""A change is confirmed at the controlling terminal, wherever a person is there to answer."""

import os
import re
import select
from pathlib import Path

import pytest

from tests.support.docora import COMMAND, Docora
from tests.support.terminal import QUESTION, TerminalSession, on_terminal


@pytest.mark.slow
def test_a_terminal_is_asked_whatever_is_redirected(docora: Docora, tmp_path: Path) -> None:
    docora.add_links(3, apps=2)
    log = tmp_path / "log"
    line = f"{COMMAND} retry-all-failed <&- >{log} 2>&1"
    with TerminalSession(["sh", "-c", line], docora.environment(TERM="dumb")) as session:
        code, shown = session.answer(b"n\n")
    assert code == 130, shown
    question = shown[: shown.index("[y/N]")]
    assert "3 links" in question
    assert "App 2" in question
    assert "[y/N]" not in log.read_text(encoding="utf-8")
    assert docora.statuses() == {"failed": 3}


@pytest.mark.slow
def test_a_background_job_must_add_yes_and_does_not_wait(docora: Docora) -> None:
    """It would be stopped as soon as it reads."""
    link = docora.add_link()
    environment = docora.environment(TERM="xterm")
    line = f"set -m; {COMMAND} retry-all-failed & wait $!"
    with TerminalSession(["sh", "-c", line], environment) as session:
        code, shown = session.end()
    assert code == 2, shown
    assert "Hint: run it in the foreground, or add --yes" in shown
    assert "[y/N]" not in shown
    with TerminalSession(
        ["sh", "-c", f"set -m; {COMMAND} retry-all-failed --yes & wait $!"], environment
    ) as session:
        code, shown = session.end()
    assert code == 0, shown
    assert docora.was_reset(link)


@pytest.mark.parametrize(
    ("answer", "said"), [(b"\xffy\n", "nothing was changed"), (b"\x03", "Error: interrupted")]
)
def test_an_answer_that_is_not_yes_is_no(docora: Docora, answer: bytes, said: str) -> None:
    docora.add_link()
    before = docora.dump()
    code, shown = on_terminal(docora, ["retry-all-failed"], answer=answer)
    assert (code, said in shown) == (130, True), shown
    assert "reset 1 link and queue its snapshot job? [y/N]" in " ".join(shown.split())
    assert docora.dump() == before


@pytest.mark.slow
def test_a_terminal_that_has_gone_answers_no(docora: Docora, tmp_path: Path) -> None:
    """Under `nohup`, the command reads the end of its input. Else: tests/errors/test_hang_up.py."""
    docora.add_link()
    before = docora.dump()
    ended, log = tmp_path / "ended", tmp_path / "log"
    os.mkfifo(ended)
    reader = os.open(ended, os.O_RDONLY | os.O_NONBLOCK)
    line = f"trap '' HUP; {COMMAND} retry-all-failed --json >{log} 2>&1; echo $? >{ended}"
    with TerminalSession(["sh", "-c", line], docora.environment(TERM="xterm")) as session:
        session.read_until(QUESTION)
        session.hang_up()
        assert select.select([reader], [], [], 60)[0]
    code = os.read(reader, 100)
    os.close(reader)
    shown = log.read_text(encoding="utf-8")
    assert (code, "nothing was changed" in shown) == (b"130\n", True), shown
    assert not re.search(r"Traceback|Exception ignored|bug", shown)
    assert docora.dump() == before
