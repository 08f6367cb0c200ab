"""`docora-ops help` shows commands and topics without settings, servers and their drivers."""

import re
import shutil
from pathlib import Path

import pytest

from tests.help.documents import TOPICS, group, topic
from tests.help.test_help import DRIVERS, TRACE, split_trace
from tests.support.docora import COMMAND, Docora
from tests.support.terminal import TerminalSession, on_terminal

NOTHING_SET: dict[str, str | None] = {"DATABASE_URL": None, "REDIS_URL": None}
ESCAPE = "\x1b"


def test_the_list_has_every_topic_once(docora: Docora) -> None:
    result = docora.run("help", env=NOTHING_SET | TRACE)
    said, imported = split_trace(result)
    assert (result.code, said, imported & DRIVERS) == (0, "", set())
    item = re.compile(r"^- `([a-z-]+)`: [A-Z`]\S* .*\.$", re.MULTILINE)
    assert item.findall(result.stdout) == list(TOPICS)


def test_each_page_is_the_help_of_the_command_and_then_the_topic(docora: Docora) -> None:
    both = TOPICS.keys() & group().commands
    for name in (*both, "cancel", "recipes"):
        result = docora.run("help", name, env=NOTHING_SET)
        pages = [topic(name)] if name in TOPICS else []
        if name in group().commands:
            shown = docora.run(name, "--help").stdout
            pages.insert(0, f"# docora-ops {name}\n\n```text\n{shown}```\n")
        assert (result.code, result.stderr, result.stdout) == (0, "", "\n".join(pages)), name


def test_a_long_page_goes_through_the_pager_that_is_set(docora: Docora, tmp_path: Path) -> None:
    paged = tmp_path / "paged"
    env = {"PAGER": f"cat >{paged}; head -1 {paged}", "TERM": "xterm-256color"}
    code, shown = on_terminal(docora, ["help", "workers"], env=env)
    text = paged.read_text(encoding="utf-8")
    assert code == 0
    assert "Behind a pooling proxy" not in shown
    assert "Behind a pooling proxy" in text
    # On a screen of 50 lines this one needs no pager.
    code, shown = on_terminal(docora, ["help", "cancel"], env=env)
    assert (code, "OPERATION_ID" in shown) == (0, True)


def test_a_dumb_narrow_terminal_gets_whole_lines_of_code_no_escapes_and_no_pager(
    docora: Docora,
) -> None:
    env = {"PAGER": "head -1", "TERM": "dumb"}
    code, shown = on_terminal(docora, ["help", "recipes"], columns=60, env=env)
    assert code == 0
    assert ESCAPE not in shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    blocks = re.findall(r"^```\w*\n(.*?)^```", topic("recipes"), re.MULTILINE | re.DOTALL)
    lines = {line for block in blocks for line in block.splitlines()}
    assert max(map(len, lines)) > 100
    assert lines - {""} <= set(shown.splitlines())


@pytest.mark.skipif(shutil.which("less") is None, reason="needs less")
def test_less_shows_a_long_page_survives_ctrl_c_and_ends_with_q(docora: Docora) -> None:
    environment = docora.environment(TERM="xterm-256color")
    with TerminalSession([str(COMMAND), "help", "json"], environment) as session:
        session.read_until(re.compile(rb"[\n\b]:"))
        session.type(b"\x03")
        session.type(b"qq")  # the interrupt may cost less the next key
        code, shown = session.end()
    assert code == 0, shown
    assert "hung_up" not in shown
    assert "ESC[" not in shown
