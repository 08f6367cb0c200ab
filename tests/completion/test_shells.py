"""Completion in bash and zsh: the words that the shell reads after Tab."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.completion.shells import SHELLS, shell
from tests.support.docora import Docora

HARD = 'Über: it\'s "$5" `x` \\ *~ !'
HOSTILE = ["$(touch x) p", "`touch x` p", "; touch x", "x$(touch x)'y", "p <(touch x)", "q*"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHELLS)
def test_a_name_becomes_one_word_whatever_is_in_it(
    docora: Docora, tmp_path: Path, name: str
) -> None:
    app = docora.add_app("Acme Search")
    docora.link(app, docora.add_repository("octo/api"))
    for other in (HARD, "the o'", "a@b: c", *HOSTILE):
        docora.add_app(other)
    with shell(docora, name, tmp_path) as started:
        for typed, value in (
            ("Ac", "Acme Search"),
            ("'Acme", "Acme Search"),
            ('"Acme Se', "Acme Search"),
            ("Acme\\ S", "Acme Search"),
            ("'Acme ", "Acme Search"),
            ("Ü", HARD),
            ("Über:", HARD),
            ("a@", "a@b: c"),
            ("the", "the o'"),
            ("\\$", HOSTILE[0]),
            ("\\`", HOSTILE[1]),
            ("'; t", HOSTILE[2]),
            ("x", HOSTILE[3]),
            ("'p ", HOSTILE[4]),
            ("q", HOSTILE[5]),
        ):
            words = started.words(f"docora-ops show {typed}")
            assert words == ["docora-ops", "show", value], typed
        words = started.words("docora-ops retry 'Acme Search' oc")
        assert words == ["docora-ops", "retry", "Acme Search", "octo/api"]
        assert started.words("docora-ops failed --app=Ac")[2:] == ["--app=Acme Search"]
        assert started.words("docora-ops --vers") == ["docora-ops", "--version"]
        assert started.words("docora-ops show --env-file a")[3:] == ["a file"]
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHELLS)
def test_what_was_typed_is_not_evaluated(docora: Docora, tmp_path: Path, name: str) -> None:
    docora.add_app("Acme Search")
    docora.add_app("Acme Searcher")
    with shell(docora, name, tmp_path) as started:
        for typed in (
            'show "$(touch x) p',
            "show $(touch\\ x)p",
            'show "`touch x` p',
            "show '$(touch x) p",
            'retry "$(touch x)" p',
            'failed --app="$(touch x)',
            "failed --repo <(touch x) --app p",
            'show --env-file "$(touch x)/p',
        ):
            started.tab(f"docora-ops {typed}", 2, "")
        started.tab("docora-ops show Acm", 3, "Acme[^\n]*Searcher")
    assert not (tmp_path / "x").exists()
