"""What is taller than the terminal goes through the pager."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from shlex import quote

import pytest

from tests.support.docora import COMMAND, Docora
from tests.support.terminal import TerminalSession, on_terminal

STYLE = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")
MARKED = "printf '[pager]\\n'; cat"
"""A pager that says that it was used."""


def at_80_by_24(docora: Docora, arguments: list[str], pager: str) -> tuple[int, str]:
    return on_terminal(docora, arguments, env={"PAGER": pager}, columns=80, lines=24)


def plain(shown: str) -> str:
    return STYLE.sub("", shown).replace("\r", "")


def test_only_what_is_taller_than_the_screen_is_paged(docora: Docora) -> None:
    docora.add_links(30)
    command = ["retry-all-failed", "--dry-run"]
    for options, pager, is_paged in (
        ([], MARKED, True),
        (["--json"], MARKED, False),
        (["--limit", "5"], MARKED, False),
        (["--help"], MARKED, False),
        ([], "", False),
    ):
        code, shown = at_80_by_24(docora, [*command, *options], pager)
        assert code == 0
        assert ("[pager]" in shown) is is_paged, options
    for number in range(1, 31):
        assert plain(shown).count(f"octo/repo{number} ") == 1, number


def test_a_change_is_paged_only_when_it_is_done_and_nobody_can_be_kept_waiting(
    docora: Docora, tmp_path: Path
) -> None:
    """The pager runs once, after the last link, and not before a wait."""
    docora.add_poison(12)
    queued = docora.add_link()
    docora.add_worker()
    status = f"{tmp_path}/status"
    # The pager copies what the database says at that moment.
    query = "SELECT status FROM app_repositories WHERE app_id = '{}'"
    pager = (
        f"cat; '{COMMAND.parent}/python' -c \"import psycopg, sys; "
        f'print(psycopg.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])" '
        f'{quote(docora.database_url)} "{query.format(queued.app_id)}" >>{status}'
    )
    command = ["retry-all-failed", "--yes"]
    code, _ = at_80_by_24(docora, command, pager)
    assert code == 6
    assert Path(status).read_text(encoding="utf-8").split() == ["pending_snapshot"]

    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
    code, shown = at_80_by_24(docora, [*command, "--wait", "--timeout", "1"], MARKED)
    assert code == 6
    assert shown.index("Poison 0 ← octo/poison0") < shown.index("Waiting for")
    assert "[pager]" not in shown
    # Without a controlling terminal nobody can press a key.
    background = f"{COMMAND} {' '.join(command)} --dry-run & wait $!"
    with TerminalSession(
        ["sh", "-mc", background], docora.environment(TERM="xterm", PAGER=MARKED), 80, 24
    ) as session:
        code, shown = session.end()
    assert (code, "[pager]" in shown) == (6, False), shown


def test_a_wait_is_paged_at_its_end_but_not_after_ctrl_c(docora: Docora) -> None:
    docora.add_links(3)
    [first, *_] = docora.links()
    docora.add_worker()
    environment = docora.environment(TERM="xterm", PAGER=MARKED)
    for command in (["retry-all-failed", "--yes"], ["retry", *first.ids]):
        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        started = [str(COMMAND), *command, "--wait", "--timeout"]
        with TerminalSession([*started, "1"], environment, 80, 1) as session:
            code, shown = session.end()
        assert (code, "[pager]" in shown) == (8, True), shown
        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        with TerminalSession([*started, "60"], environment, 80, 1) as session:
            session.read_until(re.compile(b"Waiting for"))
            session.type(b"\x03")
            code, shown = session.end()
        assert (code, "[pager]" in shown) == (130, False), shown


@pytest.mark.skipif(shutil.which("less") is None, reason="needs less")
def test_keys_in_less_do_not_change_the_exit_code(docora: Docora) -> None:
    docora.add_links(3000)
    docora.add_poison(1)
    environment = docora.environment(TERM="xterm-256color")
    command = [str(COMMAND), "retry-all-failed", "--dry-run"]
    with TerminalSession(command, environment, 80, 24) as session:
        session.read_until(re.compile(rb"\n:"))
        session.type(b"\x03")
        session.type(b"qq")  # the interrupt may cost less the next key
        code, shown = session.end()
    assert code == 6, shown
    text = plain(shown)
    assert "Dry run: nothing was changed." in text
    assert "octo/repo2999" not in text


def test_the_pager_gets_no_secret_from_the_environment(docora: Docora, tmp_path: Path) -> None:
    docora.add_links(30)
    seen = tmp_path / "environment"
    code, _ = at_80_by_24(docora, ["retry-all-failed", "--dry-run"], f"env >'{seen}'; cat")
    assert code == 0
    names = {line.partition("=")[0] for line in seen.read_text(encoding="utf-8").splitlines()}
    assert "PAGER" in names
    assert names.isdisjoint({"DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY"})
