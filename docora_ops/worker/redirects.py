"""Finds out where a git server redirects to, and keeps git on that server.

git follows redirects to any host or to none. A renamed repository needs them on its own server.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urljoin, urlsplit

from docora_ops.errors import GitError
from docora_ops.text import inert
from docora_ops.worker.log import log

_REFS = "/info/refs"
_DEFAULT_PORTS = {"http": 80, "https": 443}
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

    Raises GitError, without the name of the other host, if the redirect leaves the host or the
    port, or leads to something else than a repository. http may redirect to https.
    """
    try:
        target = urlsplit(urljoin(url.rstrip("/") + _REFS, location))
        here, there = _server(urlsplit(url)), _server(target)
    except ValueError:
        target, here, there = urlsplit(""), None, ("", None, None)
    is_upgrade = here == ("http", there[1], 80) and there == ("https", there[1], 443)
    if there != here and not is_upgrade:
        where = "{}://{}:{}".format(*there)
        log.warning("%s redirects to %s: not followed", inert(url), inert(where))
        raise GitError(
            f"{url} redirects to another server; only redirects on its own host and port are "
            "followed"
        )
    if not target.path.endswith(_REFS) or "@" in target.netloc:
        raise GitError(f"{url} redirects to something that is not a repository")
    return target._replace(path=target.path.removesuffix(_REFS), query="", fragment="").geturl()


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
