"""Cutting secrets out of texts that are shown, stored or logged, by what they look like."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

MASK = "***"

_SECRETS = re.compile(
    r"""
    (?<=://) [^/\s'"<>?\#]+ (?=@)              # user and password of a URL
    | (?: (?<=password=) | (?<=token=) | (?<=secret=) ) [^&\s'"<>]+  # an option of a URL
    | \b gh[opsur]_\w{16,} | \b github_pat_\w{16,}
    | \b [0-9a-f]{32} : [0-9a-f]{32} : [0-9a-f]*  # as Docora encrypts
    """,
    re.VERBOSE | re.IGNORECASE,
)


# The beginning of a secret whose end was cut off.
_CUT_SECRET = re.compile(
    r"""
    (?: (?<=://) [^/\s'"<>?\#]*
    | (?: (?<=password=) | (?<=token=) | (?<=secret=) ) [^&\s'"<>]*
    | \b gh[opsur]_\w* | \b github_pat_\w*
    | \b [0-9a-f]{32} : [0-9a-f:]*
    ) \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask(text: str, secrets: Iterable[str | None] = ()) -> str:
    """The text without these secrets, passwords in URLs, GitHub tokens and encrypted values."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _SECRETS.sub(MASK, text)


def mask_cut(text: str) -> str:
    """Mask the beginning of a longer text, and what may be the beginning of a secret at its end."""
    return _CUT_SECRET.sub(MASK, mask(text), count=1)


def mask_url(url: str) -> str:
    """The URL without user, password, query and fragment: each may carry a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return mask(re.sub(r"[?#].*", "", url, flags=re.DOTALL))
    _, at, host = parts.netloc.rpartition("@")
    masked = parts._replace(
        netloc=f"{MASK}@{host}" if at else host,
        query=MASK if parts.query else "",
        fragment=MASK if parts.fragment else "",
    )
    return mask(urlunsplit(masked))
