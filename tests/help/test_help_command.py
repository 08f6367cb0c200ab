"""`docora-ops help` shows commands and topics without settings, servers and their drivers."""

import re

from tests.help.documents import TOPICS, group, topic
from tests.help.test_help import DRIVERS, TRACE, split_trace
from tests.support.docora import Docora
from tests.support.terminal import on_terminal

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
