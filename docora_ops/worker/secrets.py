"""Keeps secrets out of texts that are stored or logged."""

from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus, urlsplit

from docora_ops.text import mask

_LONGEST_ERROR = 1000  # characters of `last_error`: an error may quote a whole page of HTML
_SHORTEST_SECRET = 8  # characters: any text could contain a shorter part of a URL by chance


def basic_login(login: str) -> str:
    """Returns the `USER:PASSWORD` of a URL as HTTP's Basic authentication sends it."""
    whole = unquote(login) if ":" in login else f"{unquote(login)}:"
    return b64encode(whole.encode(errors="replace")).decode()


class Cleaner:
    """Removes known secrets from texts."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def learn(self, secrets: Iterable[str | None]) -> None:
        """Adds secrets, and the form in which git sends them as a login."""
        for secret in filter(None, secrets):
            self._secrets |= {secret, b64encode(f"{secret}:".encode()).decode()}

    def learn_url(self, url: str) -> None:
        """Adds the login of a URL, and the values of its query."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return
        login, _, _ = parts.netloc.rpartition("@")
        values = [item.partition("=")[2] for item in parts.query.split("&")]
        values += [parts.query, parts.username or "", parts.password or ""]
        forms = {form(value) for value in values for form in (str, unquote, unquote_plus)}
        self.learn(form for form in forms if len(form) >= _SHORTEST_SECRET)
        if login:
            self._secrets.add(basic_login(login))

    def clean(self, text: str) -> str:
        """Returns the text without known secrets, truncated to 1,000 characters.

        Replaces characters that Postgres refuses.
        """
        text = mask(text, self._secrets)
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"
