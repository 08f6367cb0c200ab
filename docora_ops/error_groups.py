"""Groups errors that differ only in the file that was sent, in paths, numbers or ids."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docora_ops.text import inert, mask, mask_cut

LONGEST = 300  # characters of an error that are compared
_NAMED = 3  # apps that a group names

# The error of a failed delivery, as Docora's own worker writes it, and as ours does. A path may
# contain ": ", and so may a text of Node.
_DELIVERY = re.compile(
    r"""
    Notification\ failed\ for\ (?P<verb>created|updated|deleted)\ (?: (?P<file>
        .+ (?= :\ (?:Hostname/IP|Parse\ Error|Redirected\ request) ) | .+ (?= :\  )
    ) :\  (?P<reason> .+) )
    | (?P<our_reason> .+? ) \ on\ (?:created|updated|deleted) [ *] (?P<our_file> .* )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL | re.ASCII,
)

# Each alternative can match only at the start of a run of its characters, which keeps the time
# linear. Most share the first condition, which skips the inside of words.
_VARIABLE = re.compile(
    r"""
    (?<!\w) (?:
        # cut off before the reason
        (?P<notification> \A Notification\ failed\ for\ (?:created|updated|deleted)\  ) .+
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
    | "[^"]*+"
    | `[^`]*+`
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_UNTYPABLE = re.compile(r"[^\x20-\x7e]+|^\ +|\ +\Z")
_REPEATED = re.compile(r"\* (?: [\ ,:]*+ \* )++", re.VERBOSE)


@dataclass(frozen=True)
class ErrorGroup:
    """Links whose errors differ only in the file that was sent, in paths, numbers or ids.

    error_message: the error without the file; `*` replaces the parts that differ. As `--error`, it
        matches all links of the group. None if the links have no error.
    app_names: the names of up to three apps, most links first.
    last_scanned_at: the newest good scan of these links; None if there is none.
    """

    error_message: str | None
    links: int
    apps: int
    app_names: Sequence[str] = ()
    last_scanned_at: datetime | None = None


def with_reason_first(error: str) -> str:
    """Returns the error of a delivery as `HTTP 500 on created src/index.ts`, whoever wrote it."""
    parts = _DELIVERY.fullmatch(error)
    if not parts or not parts["reason"]:
        return error
    return f"{parts['reason']} on {parts['verb']} {parts['file']}"


def group_errors(rows: Iterable[Sequence[Any]]) -> list[ErrorGroup]:
    """Groups links by error, most links first.

    Ignores paths, URLs, numbers, ids, quoted text, the file of a failed delivery, and whether a
    worker of Docora or of docora-ops wrote the error.

    rows: each describes links of one app that have the same error: the app's id and name, the first
        LONGEST + 1 characters of the error, the number of links and, optionally, their newest good
        scan.
    """
    links: defaultdict[str | None, Counter[tuple[str, str]]] = defaultdict(Counter)
    shown: dict[str | None, str | None] = {}
    with_file: set[str | None] = set()
    scanned: dict[str | None, datetime] = {}
    for app_id, app_name, error, count, *scanned_at in rows:
        reason, is_delivery = _split_delivery(typable(error)) if error else (None, False)
        key = reason and _fold(reason)
        links[key][app_id, app_name] += count
        if is_delivery:
            with_file.add(key)
        if shown.setdefault(key, reason) != reason:
            shown[key] = key
        for moment in filter(None, scanned_at):
            scanned[key] = max(scanned.get(key, moment), moment)
    groups = []
    for key, apps in links.items():
        text = shown[key]
        if text and "*" in text and key in with_file:  # must match the whole error, with the file
            text = _REPEATED.sub("*", f"*{text}*")
        largest = sorted(apps, key=lambda app: (-apps[app], app[1]))
        names = [name for _, name in largest[:_NAMED]]
        groups.append(ErrorGroup(text, apps.total(), len(apps), names, scanned.get(key)))
    return sorted(groups, key=lambda group: (-group.links, group.error_message or ""))


def typable(error: str) -> str:
    """Returns the beginning of an error, without secrets, as a pattern for `--error`.

    `*` replaces text that is hard to type, such as control characters and outer blanks. `*` also
    replaces everything after the first LONGEST characters.
    """
    text = mask_cut(error) if len(error) > LONGEST else mask(error)
    if len(error) > LONGEST or len(text) > LONGEST:
        text = text[:LONGEST] + "*"
    return _untyped(text)


def _split_delivery(text: str) -> tuple[str, bool]:
    """Returns the reason without the file that was sent, and whether there was one."""
    parts = _DELIVERY.fullmatch(text)
    return (_untyped(parts["reason"] or parts["our_reason"]), True) if parts else (text, False)


def _fold(reason: str) -> str:
    """Replaces paths, URLs, numbers, ids and quoted text by `*`."""
    folded = _VARIABLE.sub(lambda part: part["kept"] or f"{part['notification'] or ''}*", reason)
    return _REPEATED.sub("*", folded)


def _untyped(text: str) -> str:
    return _UNTYPABLE.sub(
        lambda part: "".join("*" if c.isspace() or inert(c) != c else c for c in part[0]), text
    )
