"""What the completion answers to the script of zsh, which gets each value as it is."""

from __future__ import annotations

from tests.support.docora import Docora

ATTEMPTS = 10
"""A completion gives up in time on a machine that is busy with other tests."""


def answer(docora: Docora, *words: str, **env: str | None) -> str:
    """The whole answer for the last word, after it has printed nothing else."""
    asked = {"_DOCORA_OPS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "\n".join(words)}
    result = docora.run(env={**asked, **env})
    assert result.stderr == ""
    return result.stdout


def offers(docora: Docora, *words: str, **env: str | None) -> list[str]:
    """The values for the last word, without their descriptions."""
    answers = (answer(docora, *words, **env) for _ in range(ATTEMPTS))
    _, *lines = next(filter(None, answers)).splitlines()
    values = (line.replace("\\:", "\0").partition(":")[0] for line in lines)
    return [value.replace("\0", ":").replace("\\\\", "\\") for value in values]
