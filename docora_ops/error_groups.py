"""Groups errors that differ only in paths, numbers and ids."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docora_ops.text import inert, mask, mask_cut

LONGEST = 300  # characters of an error that are compared

# Each alternative can match only at the start of a run of its characters, which keeps the time
# linear. Most share the first condition, which skips the inside of words.
_VARIABLE = re.compile(
    r"""
    (?<!\w) (?:
        # Docora's own worker puts the reason behind the path. Some texts of Node hold ": " too.
        (?P<notification> \A Notification\ failed\ for\ (?:created|updated|deleted)\  )
        (?: .+ (?= :\ (?:Hostname/IP|Parse\ Error|Redirected\ request) ) | .+ (?= :\  ) | .+ )
        # a status, the new URL of an app that has moved, and a host without an address
        | (?P<kept> (?: HTTP (?:/[\d.]+)? \  | error:\  ) [1-5]\d\d (?!\w)
            (?: :\ moved\ to\ [^\s]++ )?
          | (?: Could\ not\ resolve\ host: | getaddrinfo\ \w++ ) \ [^\s]++ )
        | \w++ :// (?: [^\s"'<>]* [^\s"'<>.,:;)] )?
        | '[^']*+' (?!\w)
        # a path
        | (?<![.~%@:+-]) [\w.~%@:+-]*+ [/\\] (?: [^\s"'<>(),;]* [^\s"'<>(),;.:] )?
        # a date, a time, an address, an amount, an id
        | (?<![.@-]) \d (?: [\w:.,+-]* \w )?
        # a file or a host, but not the name of an exception
        | (?<![.@-]) \w [\w@-]*+ (?: \. (?! (?-i:[A-Z][a-z]) ) \w [\w@-]*+ )++ (?! \.\w )
        | (?<!-) (?: app | repo | bulk )_ [\w-]++
        | (?<!-) (?= [a-f-]*+ \d ) [0-9a-f-]{7,}+ (?!\w)
    )
    | (?P<event> \ on\ (?:created|updated|deleted)\  ) .+
    | "[^"]*+"
    | `[^`]*+`
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_UNTYPABLE = re.compile(r"[^\x20-\x7e]+|^\ +|\ +\Z")
_REPEATED = re.compile(r"\* (?: [\ ,:]*+ \* )++", re.VERBOSE)


@dataclass(frozen=True)
class ErrorGroup:
    """Links whose errors differ only in paths, numbers and ids.

    error_message: `*` replaces the parts that differ; None if the links have no error.
    good_until_at: the latest good scan of any failed link. The time of a failure is not recorded,
        but each link failed after its own last good scan. None if there is no such scan.
    good_until_seconds: the seconds since `good_until_at`, by the clock of Postgres.
    """

    error_message: str | None
    links: int
    apps: int
    good_until_at: datetime | None = None
    good_until_seconds: int | None = None


def fold(text: str) -> str:
    """Replaces paths, URLs, numbers, ids and quoted text in a `typable` error by `*`."""
    folded = _VARIABLE.sub(
        lambda part: part["kept"] or f"{part['notification'] or part['event'] or ''}*", text
    )
    return _REPEATED.sub("*", folded)


def group_errors(rows: Iterable[Sequence[Any]]) -> list[ErrorGroup]:
    """Groups links by folded error, most links first. Shows the full error if all links share it.

    rows: the app id, the first LONGEST + 1 characters of the error, the number of links with both,
    and optionally `good_until_at` and `good_until_seconds` of the failed links.
    """
    links: Counter[str | None] = Counter()
    apps: dict[str | None, set[str]] = {}
    shown: dict[str | None, str | None] = {}
    good_until: dict[str | None, tuple[datetime, int]] = {}
    for app_id, error, count, *bound in rows:
        text = typable(error) if error else None
        key = text and fold(text)
        links[key] += count
        apps.setdefault(key, set()).add(app_id)
        if shown.setdefault(key, text) != text:
            shown[key] = key
        if bound and bound[0]:
            good_until[key] = max(good_until.get(key, tuple(bound)), tuple(bound))
    return [
        ErrorGroup(shown[key], count, len(apps[key]), *good_until.get(key, ()))
        for key, count in sorted(links.items(), key=lambda item: (-item[1], item[0] or ""))
    ]


def typable(error: str) -> str:
    """Returns the beginning of an error, without secrets, as a pattern for `--error`.

    `*` replaces text that is hard to type, such as control characters and outer blanks, and
    everything after the first LONGEST characters.
    """
    text = mask_cut(error) if len(error) > LONGEST else mask(error)
    if len(error) > LONGEST or len(text) > LONGEST:
        text = text[:LONGEST] + "*"
    return _UNTYPABLE.sub(
        lambda part: "".join("*" if c.isspace() or inert(c) != c else c for c in part[0]), text
    )
