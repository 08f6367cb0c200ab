"""Hints that end with the command that was typed, corrected, to be pasted."""

from __future__ import annotations

import shlex

import pytest

from tests.support.docora import Docora, Result

APP = "Acme Search"
URL = "https://github.com/octo/api"
CORRECTED: list[tuple[list[str], list[str]]] = [
    (["retry", "Acme Serch", "octo/api"], ["retry", APP, "octo/api"]),
    (
        ["retry", "--front", "Acme Serch", "--reason", "a b", "octo/api", "--json"],
        ["retry", APP, "octo/api", "--front", "--reason", "a b", "--json"],
    ),
    # The same word as command, as option and as argument.
    (["show", "acme", "octo/ap"], ["show", "acme", "octo/api"]),
    (
        ["retry", "--reason", "octo/ap", "acme", "octo/ap"],
        ["retry", "acme", "octo/api", "--reason", "octo/ap"],
    ),
    (["failed", "--app", "Acme Serch", "--limit", "3"], ["failed", "--app", APP, "--limit", "3"]),
    (["failed", "--app=Acme Serch"], ["failed", f"--app={APP}"]),
    (["resync", "--all", "Acme Serch", "--yes"], ["resync", APP, "--all", "--yes"]),
    # APP and REPO swapped: the first is a repository, or the second an app.
    (["retry", "octo/api", APP], ["retry", APP, "octo/api"]),
    (["resync", "octo/api", "acme", "--yes"], ["resync", "acme", "octo/api", "--yes"]),
    (["show", "octo/nothing", "acme"], ["show", "acme", "octo/nothing"]),
    (["repair", "nothing", APP], ["repair", APP, "nothing"]),
    (["show", URL, "x"], ["show", "x", URL]),
    # Words that are missing, or too many.
    (["retry", "Acme", "Search", "octo/api", "--front"], ["retry", APP, "octo/api", "--front"]),
    (
        ["retry", APP, "octo/api", "--timeout", "3"],
        ["retry", APP, "octo/api", "--timeout", "3", "--wait"],
    ),
    (["resync", APP, "--all"], ["resync", APP, "--all", "--yes"]),
]
"""What is typed, and the command of the hint."""


@pytest.fixture
def ids(docora: Docora) -> tuple[str, str]:
    link = docora.link(docora.add_app(APP), docora.add_repository("octo/api", url=URL))
    return link.app_id, link.repository_id


def pasted(result: Result) -> list[list[str]]:
    """The commands of a hint, each as a shell splits it."""
    _, _, commands = result.stderr.partition("Hint: ")[2].partition(": docora-ops ")
    return [shlex.split(each) for each in commands.rstrip().split(" or: docora-ops ")]


def test_the_hint_shows_the_whole_command_corrected(docora: Docora, ids: tuple[str, str]) -> None:
    before = docora.dump()
    results = docora.run_together(*(typed for typed, _ in CORRECTED))
    for result, (typed, corrected) in zip(results, CORRECTED, strict=True):
        assert result.code in {2, 3}, result
        assert pasted(result) == [corrected], typed
        if "--json" in typed:
            assert f"Hint: {result.json['hint']}\n" in result.stderr
    assert docora.dump() == before


def test_swapped_arguments_are_told(docora: Docora, ids: tuple[str, str]) -> None:
    swapped = docora.run("retry", "octo/api", APP)
    assert "Error: no app 'octo/api': APP comes first, then REPO\n" in swapped.stderr
    [again] = pasted(swapped)
    assert docora.run(*again).code == 0
    # Neither is known: nothing says that they are swapped.
    assert "comes first" not in docora.run("retry", "Acme Serch", "octo/nothing").stderr


def test_each_candidate_of_an_ambiguous_name_is_a_command(
    docora: Docora, ids: tuple[str, str]
) -> None:
    other = docora.link(docora.add_app(APP), docora.add_repository("octo/api"))
    for command in (["retry", "acme", "octo/api"], ["retry", APP, "octo/api"]):
        commands = pasted(docora.run(*command))
        assert commands == [["retry", app_id, "octo/api"] for app_id in (ids[0], other.app_id)]
    # Either repository of that name is linked to the app of the other one.
    repositories = pasted(docora.run("show", docora.add_app("Third"), "octo/api"))
    assert [words[2] for words in repositories] == [ids[1], other.repository_id]


def test_resync_without_a_repository_shows_both_ways(docora: Docora, ids: tuple[str, str]) -> None:
    result = docora.run("resync", APP, "--yes")
    assert result.code == 2
    assert pasted(result) == [["resync", APP, "REPO", "--yes"], ["resync", APP, "--yes", "--all"]]


def test_a_suggestion_that_begins_with_a_dash_comes_behind_two(docora: Docora) -> None:
    docora.link(docora.add_app("--odd app"), docora.add_repository("octo/api"))
    result = docora.run("show", "odd app", "octo/api", "--json")
    assert pasted(result) == [["show", "--json", "--", "--odd app", "octo/api"]]
    assert docora.run(*pasted(result)[0]).code == 0


def test_a_name_that_is_not_shown_as_it_is_gives_way_to_the_id(docora: Docora) -> None:
    evil = [docora.add_app("Acme\x1b[2J Search"), docora.add_app("See https://me:geheim@acme.test")]
    for text, app_id in zip(("Acm Search", "Se https://me@acme.test"), evil, strict=True):
        result = docora.run("show", text, "octo/api")
        assert pasted(result) == [["show", app_id, "octo/api"]]


def test_a_secret_that_was_typed_is_not_repeated(docora: Docora, ids: tuple[str, str]) -> None:
    url = "https://kim:geheim@github.com/octo/api"
    result = docora.run("retry", "Acme Serch", url, "--reason", f"ghp_{'a' * 36}")
    assert "docora-ops retry 'Acme Search'" in result.stderr
    assert "geheim" not in result.stderr
    assert "ghp_" not in result.stderr
