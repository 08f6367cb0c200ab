"""What is taller than the terminal goes through the pager."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.docora import Docora
from tests.support.terminal import on_terminal

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


def test_the_pager_gets_no_secret_from_the_environment(docora: Docora, tmp_path: Path) -> None:
    docora.add_links(30)
    seen = tmp_path / "environment"
    code, _ = at_80_by_24(docora, ["retry-all-failed", "--dry-run"], f"env >'{seen}'; cat")
    assert code == 0
    names = {line.partition("=")[0] for line in seen.read_text(encoding="utf-8").splitlines()}
    assert "PAGER" in names
    assert names.isdisjoint({"DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY"})
