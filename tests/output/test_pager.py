"""What is taller than the terminal goes through the pager."""

import re
import shutil
from pathlib import Path

import pytest

from tests.support.docora import COMMAND, Docora
from tests.support.terminal import TerminalSession, on_terminal

STYLE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")
MARKED = "printf '[pager]\\n'; cat"
"""A pager that says that it was used."""


def at_80_by_24(docora: Docora, arguments: list[str], pager: str) -> tuple[int, str]:
    return on_terminal(docora, arguments, env={"PAGER": pager}, columns=80, lines=24)


@pytest.mark.slow
def test_only_what_is_taller_than_the_screen_is_paged(docora: Docora) -> None:
    docora.add_links(30)
    command = ["retry-all-failed", "--dry-run"]
    for arguments, pager, is_paged in (
        ([*command], MARKED, True),
        (["help", "workers"], MARKED, True),
        (["help", "cancel"], MARKED, False),
        ([*command, "--json"], MARKED, False),
        ([*command, "--limit", "5"], MARKED, False),
        ([*command, "--help"], MARKED, False),
        ([*command], "", False),
    ):
        code, shown = at_80_by_24(docora, arguments, pager)
        assert code == 0
        assert ("[pager]" in shown) is is_paged, arguments
    plain = STYLE.sub("", shown).replace("\r", "")
    for number in range(1, 31):
        assert plain.count(f"octo/repo{number} ") == 1, number
    assert plain.rstrip().endswith("dry run, nothing was changed.")


def test_the_pager_gets_no_secret_from_the_environment(docora: Docora, tmp_path: Path) -> None:
    docora.add_links(30)
    seen = tmp_path / "environment"
    secrets = {"REDISCLI_AUTH": "x", "Database_Url": "x", "PgPassword": "x"}
    env = {"PAGER": f"env >'{seen}'; cat", **secrets}
    code, _ = on_terminal(docora, ["retry-all-failed", "--dry-run"], env=env, columns=80, lines=24)
    assert code == 0
    names = {line.partition("=")[0] for line in seen.read_text(encoding="utf-8").splitlines()}
    assert "PAGER" in names
    assert names.isdisjoint({"DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", *secrets})


def test_a_signal_ends_the_command_and_its_pager(docora: Docora) -> None:
    pager = "kill -HUP $PPID; exec sleep 1000"
    assert on_terminal(docora, ["help", "json"], env={"PAGER": pager})[0] == 129


@pytest.mark.slow
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
