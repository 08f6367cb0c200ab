"""Keeping secrets out of texts that are stored or logged."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable

from docora_ops.text import mask

_LONGEST_ERROR = 1000
"""Characters of `last_error`; the rest of a page of HTML helps nobody."""


class Cleaner:
    """Knows the secrets of one job, and cuts them out of whatever is said of it."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def learn(self, secrets: Iterable[str | None]) -> None:
        """These must not be shown, nor the way in which git logs in with them."""
        for secret in filter(None, secrets):
            self._secrets |= {secret, b64encode(f"{secret}:".encode()).decode()}

    def clean(self, text: str) -> str:
        """The text without secrets, in characters that Postgres takes, cut to a sensible length."""
        text = mask(text, self._secrets)
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"
