"""`status --watch`: one screen that is redrawn in place, and one screen per period in a pipe."""

import re
import signal

import pytest

from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import COMMAND, Docora
from tests.support.proxy import patience
from tests.support.terminal import TerminalSession

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_PART = re.compile(r"\x1b\[1A|\x1b\[J|\x1b\[H|\r\n|\n|\r|[^\x1b\r\n]+|\x1b")


class Emulated:
    """What a terminal of 80x24 shows after a text, and how often it has scrolled."""

    def __init__(self, text: str) -> None:
        self.lines, self.row, self.scrolled = [""] * 24, 0, 0
        for part in _PART.findall(_STYLE.sub("", text)):
            match part:
                case "\x1b[1A":
                    self.row -= 1
                    assert self.row >= 0, "above the terminal"
                case "\x1b[H":
                    self.row = 0
                case "\x1b[J":
                    self.lines[self.row :] = [""] * (24 - self.row)
                case "\r\n" | "\n":
                    self.row += 1
                    if self.row == 24:
                        self.lines, self.row = [*self.lines[1:], ""], 23
                        self.scrolled += 1
                case "\r":
                    pass
                case _:
                    assert "\x1b" not in part, text
                    assert len(self.lines[self.row] + part) <= 80, part
                    self.lines[self.row] += part

    def begins(self, word: str) -> int:
        return sum(line.startswith(word) for line in self.lines)


@pytest.mark.slow
def test_a_terminal_is_redrawn_in_place_and_keeps_the_last_screen(trouble: Docora) -> None:
    environment = trouble.environment(TERM="xterm-256color", **ONE_LOOK)
    command = [str(COMMAND), "status", "--watch", "1"]
    with TerminalSession(command, environment, 80, 24) as session:
        session.read_until(re.compile(rb"nothing is scanned(?s:.*)Ctrl-C ends"))
        trouble.add_worker("new-one")
        session.read_until(re.compile(rb"30 of 38 links failed: (?s:.*)Ctrl-C ends"))
        session.type(b"\x03")
        code, shown = session.end()
    screen = Emulated(shown)
    assert (code, screen.scrolled) == (130, 0), shown
    assert [screen.begins(word) for word in ("Links", "Workers", "Schedule")] == [1, 1, 1]
    assert "30 of 38 links failed: " in screen.lines[0]
    assert "interrupted" not in shown
    assert "\x1b[?1049h" not in shown


@pytest.mark.slow
def test_a_pipe_gets_a_screen_per_period_until_a_signal(docora: Docora) -> None:
    process = docora.start_installed("status", "--watch", "1", env=ONE_LOOK)
    assert process.stdout is not None
    lines: list[str] = []
    while lines.count("\n") < 2:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGHUP)
    rest, stderr = process.communicate(timeout=patience())
    assert (process.returncode, stderr) == (129, "")
    assert "\x1b" not in "".join(lines) + rest
    for screen in "".join(lines).strip().split("\n\n"):
        sentence, *_, read_at = screen.splitlines()
        assert sentence == "there are no links yet"
        assert re.fullmatch(r"Read at\t20\d\d-\d\d-\d\dT[\d:.]+Z", read_at)


@pytest.mark.slow
def test_it_ends_where_nobody_reads_and_goes_on_where_a_server_is_lost(docora: Docora) -> None:
    env = {"REDIS_URL": "redis://127.0.0.1:1/7"}
    process = docora.start_installed("status", "--watch", "1", env=env)
    assert process.stdout is not None
    sentences = 0
    while sentences < 2:
        line = process.stdout.readline()
        sentences += line.startswith("Redis can't be used: ")
    process.stdout.close()
    assert process.wait(patience()) == 0


def test_what_can_not_be_watched_is_refused(docora: Docora) -> None:
    for arguments, said in (
        (("--watch", "--json"), "--json prints one document"),
        (("5",), "SECONDS needs --watch"),
        (("--watch", "0"), "'0' is not greater than or equal to 1"),
        (("--watch", "soon"), "'soon' is not a valid integer"),
    ):
        docora.run("status", *arguments).ended(2, says=said)
