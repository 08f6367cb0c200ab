"""Parses the URLs that requests are sent to: an app's base_url, and the targets of redirects."""

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
    """A URL that requests are sent to. Its query and its credentials are never shown."""

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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def authority(self) -> str:
        """Host and port, without the scheme's default port."""
        is_default = self.port == DEFAULT_PORTS[self.scheme]
        return self.address.removesuffix(f":{self.port}") if is_default else self.address

    @property
    def url(self) -> str:
        """The URL without credentials and query."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def target(self) -> str:
        """Path and query, as in the request line."""
        return f"{self.path or '/'}?{self.query}" if self.query else self.path or "/"

    def below(self, name: str) -> Endpoint:
        """Returns the endpoint with one more part of the path, before the query."""
        return replace(self, path=f"{self.path}/{name}")

    def redirected(self, location: str) -> Endpoint | None:
        """Returns the endpoint in a `Location` header, or None if it is no http or https URL.

        Keeps the credentials only for the same scheme, host and port.
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


def endpoint_of(base_url: str) -> Endpoint:
    """Parses an app's base_url. Raises DeliveryError."""
    endpoint = _parse(base_url)
    if endpoint is None:
        raise DeliveryError("the app's base_url is not an http or https URL")
    return replace(endpoint, path=endpoint.path.rstrip("/"), authorization=basic_login(base_url))


def basic_login(url: str) -> str | None:
    """Returns the `Authorization` header for the user and password in a URL, if any."""
    parts = urlsplit(url)
    if not parts.username and not parts.password:
        return None
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(login.encode(errors='replace')).decode()}"


def secrets_of(url: str) -> set[str]:
    """Returns the texts of a URL that may be secret: user, password and values of its query.

    Leaves out short ones, which any other text could contain by chance.
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
