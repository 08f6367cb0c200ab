"""An app and a repository, by every name they have."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from docora_ops.database.names import CLEAR_NAMES
from tests.support.docora import Docora
from tests.support.rows import TestLink
from tests.support.terminal import at_terminals, plain_data, plain_talk

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


NAMES = "'Acme Search' octo/api"
WAIT = "To wait for the result: docora-ops wait"
OTHER_CAFE = "Kim's Caf\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.mark.slow
def test_a_terminal_gets_names_and_a_script_ids(docora: Docora, link: TestLink) -> None:
    ids = " ".join(link.ids)
    shown = at_terminals(docora, ["show", *link.ids], columns=80)
    pipe = docora.run("show", *link.ids).stdout
    everything = at_terminals(docora, ["show", *link.ids, "--all"], columns=100)
    retried = at_terminals(docora, ["retry", *link.ids], columns=80)
    docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
    docora.redis.flushdb()
    refused = at_terminals(docora, ["retry", *link.ids], columns=80)
    as_json = at_terminals(docora, ["retry", *link.ids, "--json"], columns=80)
    screen = " ".join(plain_data(shown.data).split())
    assert f"Next docora-ops retry {NAMES} " in screen
    assert "App Acme Search URL" in screen
    assert "app_" not in screen
    assert f"Next\tdocora-ops retry {ids}\nApp\tAcme Search ({APP})\n" in pipe
    assert APP in everything.data
    assert "app_" not in retried.data
    assert f"{WAIT} {NAMES}\n" in plain_talk(retried.talk)
    assert (refused.code, as_json.code) == (4, 4)
    assert f"docora-ops resync {NAMES}\n" in plain_talk(refused.talk)
    assert f"docora-ops resync {ids}" in as_json.data


@pytest.mark.parametrize(
    ("app", "shown"),
    [
        (OTHER_CAFE, shlex.quote(OTHER_CAFE)),
        ("ACME Search", APP),
        ("other", "other"),
        ("app_of_kim", APP),
        ("--all", APP),
        ("a\tb", APP),
        ("https://u:secret@h.example", APP),
    ],
)
def test_a_name_stands_for_an_app_only_where_it_is_taken_for_nothing_else(
    docora: Docora, link: TestLink, app: str, shown: str
) -> None:
    docora.connection.execute("UPDATE apps SET app_name = %s", (app,))
    docora.add_app("acme search")
    docora.add_repository("octo/API")  # not of the app
    screen = plain_data(at_terminals(docora, ["show", *link.ids], columns=120).data)
    assert re.search(rf"docora-ops retry {re.escape(shown)} octo/api *\n", screen)
    docora.add_app("x", "other")
    docora.link(APP, docora.add_repository("Octo/API"))
    screen = plain_data(at_terminals(docora, ["show", *link.ids], columns=120).data)
    by_id = APP if app == "other" else re.escape(shown)
    assert re.search(rf"docora-ops retry {by_id} {REPOSITORY} *\n", screen)


def rows_handled(node: dict[str, Any]) -> float:
    """The rows that a node of a plan, and those below it, have passed on or removed."""
    removed = sum(count for name, count in node.items() if name.startswith("Rows Removed by"))
    own: float = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return own + sum(map(rows_handled, node.get("Plans", ())))


def test_ids_are_not_compared_with_every_app_one_by_one(docora: Docora) -> None:
    docora.connection.execute(
        "INSERT INTO apps"
        " (app_id, token_hash, app_name, base_url, email, client_auth_key_encrypted)"
        " SELECT 'app_' || i, i, 'App ' || i, 'https://x', 'e@x', 'k'"
        " FROM generate_series(1, 2000) i"
    )
    docora.connection.execute("ANALYZE apps")
    ids = [f"app_{number}" for number in range(1, 21)]
    sql = CLEAR_NAMES.replace("docora.", "")
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}"
    [row] = docora.connection.execute(explain, {"ids": ids}).fetchall()
    assert rows_handled(row["QUERY PLAN"][0]["Plan"]) < 20_000, row
