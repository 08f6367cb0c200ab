"""Turns an app's base_url, or where a redirect leads, into the parts of a request."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urljoin, urlsplit

from docora_ops.errors import DeliveryError

DEFAULT_PORTS = {"http": 80, "https": 443}
_SAFE = "/%:@!$&'()*+,;=~"
"""Characters of a path that are sent as they are; all others are percent-encoded."""
_NO_HOST = re.compile(r"[\x00-\x20\x7f]")
_SHORTEST_SECRET = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL that requests are sent to. Neither its query nor its credentials are ever printed."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(default="", repr=False)
    authorization: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def address(self) -> str:
        """Host and port."""
        return address(self.host, self.port)

    @property
    def authority(self) -> str:
        """Host and port, without the port if it is the scheme's own."""
        is_usual = self.port == DEFAULT_PORTS[self.scheme]
        return self.address.removesuffix(f":{self.port}") if is_usual else self.address

    @property
    def url(self) -> str:
        """The URL for a person: without credentials and query."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def target(self) -> str:
        """Path and query, as the request line holds them."""
        return f"{self.path or '/'}?{self.query}" if self.query else self.path or "/"

    def below(self, name: str) -> Endpoint:
        """Returns the endpoint whose path has one more part; the query stays behind the path."""
        return replace(self, path=f"{self.path}/{name}")

    def redirected(self, location: str) -> Endpoint | None:
        """Returns where a `Location` header leads, or None if that is not an http or https URL.

        The credentials go along only to the same scheme, host and port.
        """
        # http.client decodes headers as Latin-1.
        text = quote(location.strip().encode("latin-1"), safe=f"{_SAFE}?#[]")
        try:
            url = urljoin(f"{self.scheme}://{self.authority}{self.target}", text)
        except ValueError:
            return None
        there = _parse(url)
        if there is None:
            return None
        is_same = there.origin == self.origin
        return replace(there, authorization=self.authorization if is_same else None)


def address(host: str, port: int) -> str:
    """Host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint_of(base_url: str) -> Endpoint:
    """Parses an app's base_url. Raises DeliveryError."""
    endpoint = _parse(base_url)
    if endpoint is None:
        raise DeliveryError("the app's base_url is not an http or https URL")
    return replace(endpoint, path=endpoint.path.rstrip("/"), authorization=basic_login(base_url))


def basic_login(url: str) -> str | None:
    """Returns the value of an `Authorization` header for the user and the password in a URL."""
    parts = urlsplit(url)
    if not parts.username and not parts.password:
        return None
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(login.encode(errors='replace')).decode()}"


def secrets_of(url: str) -> set[str]:
    """Returns each text in a URL that may be a secret: user, password and values of its query.

    Short ones are left out: every path could hold them by chance.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return set()
    written = [parts.username or "", parts.password or ""]
    values = [value for _, value in parse_qsl(parts.query)]
    values += [item.partition("=")[2] for item in parts.query.split("&")]
    secrets = {*written, *map(unquote, written), *values, parts.query}
    secrets = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
    if login := basic_login(url):
        secrets.add(login.removeprefix("Basic "))
    return secrets


def _parse(url: str) -> Endpoint | None:
    """Parses a URL, except for its credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not host or _NO_HOST.search(host):
        return None
    return Endpoint(
        parts.scheme,
        host,
        port or DEFAULT_PORTS[parts.scheme],
        quote(parts.path, safe=_SAFE),
        quote(parts.query, safe=f"{_SAFE}?[]"),
    )
