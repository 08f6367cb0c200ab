"""Groups errors that differ only in the file that was sent, in paths, numbers or ids."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docora_ops.links import LinkFailure
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

    error_message: the error without the file; `*` replaces the parts that differ. None if the links
        have no error.
    files: the number of different files that the errors name.
    app_names: the names of up to three apps, most links first. Unknown names are left out.
    good_until_at: the latest of the failed links' last good scans; None if there is none. The time
        of a failure is not recorded, but each link failed after its own last good scan.
    good_until_seconds: the seconds since `good_until_at`, by the clock of Postgres.
    oldest_scan_seconds: the seconds since the earliest of the failed links' last good scans.
    """

    error_message: str | None
    links: int
    apps: int
    files: int = 0
    app_names: Sequence[str] = ()
    good_until_at: datetime | None = None
    good_until_seconds: int | None = None
    oldest_scan_seconds: int | None = None


def split_delivery(text: str) -> tuple[str, str | None]:
    """Splits the error of a delivery into the reason and the file that was sent.

    Returns any other error whole, with None for the file.

    text: the error, as `typable` returns it.
    """
    parts = _DELIVERY.fullmatch(text)
    if not parts:
        return text, None
    return _untyped(parts["reason"] or parts["our_reason"]), parts["file"] or parts["our_file"]


def with_reason_first(error: str) -> str:
    """Returns the error of a delivery as `HTTP 500 on created src/index.ts`, whoever wrote it."""
    parts = _DELIVERY.fullmatch(error)
    if not parts or not parts["reason"]:
        return error
    return f"{parts['reason']} on {parts['verb']} {parts['file']}"


def fold(text: str) -> str:
    """Replaces paths, URLs, numbers, ids and quoted text in an error by `*`.

    Keeps only the reason of a failed delivery, so that errors match regardless of the file, and of
    whether a worker of Docora or of docora-ops wrote them.

    text: the error, as `typable` returns it.
    """
    folded = _VARIABLE.sub(
        lambda part: part["kept"] or f"{part['notification'] or ''}*", split_delivery(text)[0]
    )
    return _REPEATED.sub("*", folded)


def group_errors(rows: Iterable[Sequence[Any]]) -> list[ErrorGroup]:
    """Groups links by folded error (see `fold`), most links first.

    A group shows its error without the file. If the errors of its links still differ, the group
    shows the folded error.

    rows: each describes links of one app that have the same error: the app's id and name (None if
        unknown), the first LONGEST + 1 characters of the error, the number of links and,
        optionally, `good_until_at`, `good_until_seconds` and `oldest_scan_seconds` of the failed
        links.
    """
    links: defaultdict[str | None, Counter[tuple[str, str | None]]] = defaultdict(Counter)
    files: defaultdict[str | None, set[int]] = defaultdict(set)  # hashes, for a million links
    shown: dict[str | None, str | None] = {}
    good_until: dict[str | None, tuple[datetime, int]] = {}
    oldest: dict[str | None, int] = {}
    for app_id, app_name, error, count, *bounds in rows:
        text = typable(error) if error else None
        key = text and fold(text)
        reason, file = split_delivery(text) if text else (None, None)
        links[key][app_id, app_name] += count
        if file is not None:
            files[key].add(hash(file))
        if shown.setdefault(key, reason) != reason:
            shown[key] = key
        if bounds and bounds[0]:
            at, seconds, oldest_seconds = bounds
            good_until[key] = max(good_until.get(key, (at, seconds)), (at, seconds))
            oldest[key] = max(oldest.get(key, 0), oldest_seconds)
    groups = []
    for key, apps in links.items():
        largest = sorted(apps, key=lambda app: (-apps[app], app[1] or ""))
        names = [name for _, name in largest if name][:_NAMED]
        counts = (apps.total(), len(apps), len(files[key]))
        good_at, ago = good_until.get(key, (None, None))
        groups.append(ErrorGroup(shown[key], *counts, names, good_at, ago, oldest.get(key)))
    return sorted(groups, key=lambda group: (-group.links, group.error_message or ""))


def group_failures(failures: Iterable[LinkFailure]) -> list[ErrorGroup]:
    """Groups the failures of links by folded error, most links first."""
    return group_errors(
        (link.app_id, link.app_name, link.error_message[: LONGEST + 1], 1) for link in failures
    )


def typable(error: str) -> str:
    """Returns the beginning of an error, without secrets, as a pattern for `--error`.

    `*` replaces text that is hard to type, such as control characters and outer blanks. `*` also
    replaces everything after the first LONGEST characters.
    """
    text = mask_cut(error) if len(error) > LONGEST else mask(error)
    if len(error) > LONGEST or len(text) > LONGEST:
        text = text[:LONGEST] + "*"
    return _untyped(text)


def _untyped(text: str) -> str:
    return _UNTYPABLE.sub(
        lambda part: "".join("*" if c.isspace() or inert(c) != c else c for c in part[0]), text
    )
