"""An app and a repository, by every name they have."""

import subprocess
from pathlib import Path

import pytest

from tests.support.docora import Docora
from tests.support.rows import TestLink

APP = "app_" + "a" * 24
REPOSITORY = "repo_" + "b" * 24


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link whose ids and names are known."""
    docora.add_app("Acme Search", APP)
    docora.add_repository("octo/api", REPOSITORY)
    return docora.link(APP, REPOSITORY, retry_count=5)


def test_several_of_one_name_are_listed_by_id(docora: Docora, link: TestLink) -> None:
    other_app = docora.add_app("ACME SEARCH")
    other_repository = docora.add_repository("Octo/api")
    docora.link(APP, other_repository)
    before = docora.dump()
    apps, repositories = docora.run_together(
        ("retry", "acme search", REPOSITORY, "--json"), ("retry", APP, "octo/api", "--json")
    )
    assert docora.dump() == before
    for result, field, ids in (
        (apps, "app_ids", [APP, other_app]),
        (repositories, "repository_ids", [REPOSITORY, other_repository]),
    ):
        assert result.code == 2, result
        assert result.json.keys() == {"error", "code", "hint", field}
        assert result.json["code"] == "ambiguous"
        assert sorted(result.json[field]) == sorted(ids)
        assert all(one in result.json["error"] for one in ids)


def test_what_a_hint_has_to_paste_runs_nothing_in_a_shell(docora: Docora, tmp_path: Path) -> None:
    evil = "Acme's $(touch pwned)"
    docora.link(docora.add_app(evil), docora.add_repository(f"octo/{evil}"))
    docora.redis.hset("docora:bulk:$(touch pwned)", mapping={"total": 1, "completed": 1})
    for arguments, before, behind, word in (
        (("show", "Acmes touch pwned", "x"), "did you mean ", "?\n", evil),
        (("show", "Acm", "octo/Acmes touch"), "did you mean ", "?\n", f"octo/{evil}"),
        (("cancel", "$(touch pwned)"), "docora-ops operations ", " shows what", "$(touch pwned)"),
    ):
        result = docora.run(*arguments)
        pasted = result.stderr.partition(before)[2].rpartition(behind)[0]
        done = subprocess.run(
            ["sh", "-c", f"printf '%s\\n' {pasted}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{word}\n", result
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_shown_as_it_is_gives_way_to_the_id(docora: Docora) -> None:
    evil = [docora.add_app("Acme\x1b[2J Search"), docora.add_app("See https://me:geheim@acme.test")]
    for text, app_id in zip(("Acm Search", "Se https://me:x@acme.test"), evil, strict=True):
        result = docora.run("show", text, "octo/api")
        assert result.stderr.endswith(f"Hint: did you mean {app_id}?\n")
        assert "me:x" not in result.stderr
