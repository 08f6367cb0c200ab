"""Finds out where a git server redirects to, and keeps git on that server.

git can follow redirects to any host or none. A renamed repository needs them on its own server.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import SplitResult, urljoin, urlsplit

from docora_ops.errors import GitError
from docora_ops.text import inert
from docora_ops.worker.endpoint import DEFAULT_PORTS

log = logging.getLogger("rq.worker.snapshot")

_REFS = "/info/refs"
_REDIRECT = re.compile(r"unable to access .*: The requested URL returned error: 30[12378]")
_LOCATION = re.compile(r"<= Recv header: location:[ \t]*(\S*)", re.IGNORECASE)


def is_redirect(error: GitError) -> bool:
    """Returns whether git has failed because the server redirects."""
    return _REDIRECT.search(error.message) is not None


def location_in(trace: str) -> str:
    """Returns the header `Location` of the server's last answer in git's trace, or ""."""
    found: list[str] = _LOCATION.findall(trace)
    return found[-1] if found else ""


def target_on_same_server(url: str, location: str) -> str:
    """Returns the URL of the repository at `url` after a redirect of its `info/refs`.

    Raises GitError, without the name of the other host, where the redirect leaves the host or the
    port, and where it leads to something else than a repository. From http it may lead to https.
    """
    try:
        target = urlsplit(urljoin(url.rstrip("/") + _REFS, location))
        stays = _server(target) in _allowed(_server(urlsplit(url)))
    except ValueError:
        target, stays = urlsplit(""), False
    if not stays:
        where = "{}://{}:{}".format(*_server(target))
        log.warning("%s redirects to %s: not followed", inert(url), inert(where))
        raise GitError(
            f"{url} redirects to another server; only redirects on its own host and port are "
            "followed"
        )
    if not target.path.endswith(_REFS) or "@" in target.netloc:
        raise GitError(f"{url} redirects to something that is not a repository")
    return target._replace(path=target.path.removesuffix(_REFS), query="", fragment="").geturl()


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


def _allowed(
    server: tuple[str, str | None, int | None],
) -> list[tuple[str, str | None, int | None]]:
    scheme, host, port = server
    secure = [("https", host, DEFAULT_PORTS["https"])] if (scheme, port) == ("http", 80) else []
    return [server, *secure]
