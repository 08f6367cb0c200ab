"""Completion in bash and zsh: the words that the shell reads after Tab."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.completion.shells import SHELLS, shell
from tests.support.docora import Docora

HARD = 'Über: it\'s "$5" `x` \\ *~ !'


@pytest.mark.parametrize("name", SHELLS)
def test_a_name_becomes_one_word_whatever_is_in_it(
    docora: Docora, tmp_path: Path, name: str
) -> None:
    app = docora.add_app("Acme Search")
    docora.link(app, docora.add_repository("octo/api"))
    for other in (HARD, 'Say "hi"', "the o'"):
        docora.add_app(other)
    with shell(docora, name, tmp_path) as started:
        for typed, value in (
            ("ac", "Acme Search"),
            ("'acme", "Acme Search"),
            ('"acme se', "Acme Search"),
            ("acme\\ s", "Acme Search"),
            ("ü", HARD),
            ("'ü", HARD),
            ('"ü', HARD),
            ("Über:", HARD),
            ('"say', 'Say "hi"'),
            ("'the", "the o'"),
        ):
            started.completes(f"docora-ops show {typed}", "docora-ops", "show", value)
        if name == "bash":  # zsh leaves the cursor before the last quote
            started.completes("docora-ops show 'Über: it'\\''", "docora-ops", "show", HARD)
        words = ("docora-ops", "retry", "Acme Search", "octo/api")
        started.completes("docora-ops retry 'Acme Search' oc", *words)
        started.completes(
            'docora-ops failed --app="ac', "docora-ops", "failed", "--app=Acme Search"
        )


@pytest.mark.parametrize("name", SHELLS)
def test_a_file_is_offered_only_where_one_is_meant(
    docora: Docora, tmp_path: Path, name: str
) -> None:
    docora.add_app("Acme Search")
    with shell(docora, name, tmp_path) as started:
        assert started.words("docora-ops show a\\ fi")[2:] == ["a fi"]
        assert started.words("docora-ops history --limit a")[2:] == ["--limit", "a"]
        started.completes("docora-ops --env-file a", "docora-ops", "--env-file", "a file")
        started.completes("docora-ops show --env-file=a", "docora-ops", "show", "--env-file=a file")


@pytest.mark.parametrize("name", SHELLS)
def test_several_values_are_listed_and_what_was_typed_is_kept(
    docora: Docora, tmp_path: Path, name: str
) -> None:
    ids = [docora.add_app("Acme") for _ in range(2)]
    for app in ("Lantern One", "LANTERN Two"):
        docora.add_app(app)
    with shell(docora, name, tmp_path) as started:
        assert started.words("docora-ops show acm") == ["docora-ops", "show", "acm"]
        assert started.words("docora-ops show lant") == ["docora-ops", "show", "lant"]
        started.shows("docora-ops show acm", 2, f"{ids[0]}.*{ids[1]}")
