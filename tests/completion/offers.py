"""What Typer answers to the scripts of bash and zsh."""

from __future__ import annotations

import shlex

from tests.support.docora import Docora, Result

ATTEMPTS = 10
"""A completion gives up in time on a machine that is busy with other tests."""


def answer(docora: Docora, *words: str, **env: str | None) -> Result:
    """The whole answer for the last word."""
    asked = {
        "_DOCORA_OPS_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": shlex.join(["docora-ops", *words]),
    }
    return docora.run(env={**asked, **env})


def offers(docora: Docora, *words: str, **env: str | None) -> list[str]:
    """The values for the last word, without their descriptions."""
    answers = (answer(docora, *words, **env).stdout for _ in range(ATTEMPTS))
    lines = next(filter(None, answers)).splitlines()
    return [line.partition("\t")[0] for line in lines if line]
