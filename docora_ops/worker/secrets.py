"""Keeps secrets out of texts that are stored or logged."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable

from docora_ops.text import mask

_LONGEST_ERROR = 1000
"""Characters of `last_error`: an error may quote a whole page of HTML."""


class Cleaner:
    """Removes the secrets of one job from texts."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def learn(self, secrets: Iterable[str | None]) -> None:
        """Adds secrets, and the form in which git sends each as a login."""
        for secret in filter(None, secrets):
            self._secrets |= {secret, b64encode(f"{secret}:".encode()).decode()}

    def clean(self, text: str) -> str:
        """Returns the text without secrets, in characters that Postgres accepts, and cut."""
        text = mask(text, self._secrets)
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"
