"""Making errors equal that differ only in paths, numbers and ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from docora_ops.link_lists import ErrorGroup
from docora_ops.text import inert, mask, mask_cut

LONGEST = 300  # characters of an error that are compared
_FOLDED_AT_ONCE = 1000

# In no text of Postgres. One call for many texts takes a fraction of the time of a call for each.
_SEPARATOR = "\0"

# Each alternative begins only where the run of its characters does, so the time stays linear. The
# first condition, which most of them have in common, passes over the inside of a word at once.
_VARIABLE = re.compile(
    r"""
    (?<!\w) (?:
        # Docora's own worker puts the reason behind the path. Some texts of Node hold ": " too.
        (?P<notification> (?<![^\0]) Notification\ failed\ for\ (?:created|updated|deleted)\  )
        (?: [^\0]+ (?= :\ (?:Hostname/IP|Parse\ Error|Redirected\ request) )
          | [^\0]+ (?= :\  )
          | [^\0]+ )
        | (?P<kept> (?: HTTP (?:/[\d.]+)? \  | error:\  ) [1-5]\d\d (?!\w)
            (?: :\ moved\ to\ [^\s\0]++ )? )
        | \w++ :// (?: [^\s\0"'<>]* [^\s\0"'<>.,:;)] )?
        | '[^'\0]*+' (?!\w)
        # a path
        | (?<![.~%@:+-]) [\w.~%@:+-]*+ [/\\] (?: [^\s\0"'<>(),;]* [^\s\0"'<>(),;.:] )?
        # a date, a time, an address, an amount, an id
        | (?<![.@-]) \d (?: [\w:.,+-]* \w )?
        # a file or a host, but not the name of an exception
        | (?<![.@-]) \w [\w@-]*+ (?: \. (?! (?-i:[A-Z][a-z]) ) \w [\w@-]*+ )++ (?! \.\w )
        | (?<!-) (?: app | repo | bulk )_ [\w-]++
        | (?<!-) (?= [a-f-]*+ \d ) [0-9a-f-]{7,}+ (?!\w)
    )
    | (?P<event> \ on\ (?:created|updated|deleted)\  ) [^\0]+
    | "[^"\0]*+"
    | `[^`\0]*+`
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UNPRINTABLE = re.compile(r"[^\0\x20-\x7e]+")
_REPEATED = re.compile(r"\* (?: [\ ,:]*+ \* )++", re.VERBOSE)


def fold(errors: Sequence[str]) -> list[str]:
    """Replaces paths, URLs, numbers, ids and quotations in each error by `*`.

    Keeps the status of an HTTP answer, and the new URL of an app that has moved. `--error` finds an
    error by its folded text: `*` also replaces what nobody can type, such as control characters and
    outer blanks, and what follows the first LONGEST characters. Takes linear time.
    """
    text = _SEPARATOR.join(map(_cut, errors))
    text = _UNPRINTABLE.sub(_replace_unseen, _VARIABLE.sub(_replace, text))
    return [_open_ended(each) for each in _REPEATED.sub("*", text).split(_SEPARATOR)]


def group_errors(rows: Iterable[tuple[str, str | None, int]]) -> list[ErrorGroup]:
    """Groups links by folded error, most links first. Shows what all errors of a group share.

    `rows`: app id, error, and number of links with both. Only the first LONGEST characters of an
    error count, and one more that tells that there are more.
    """
    links: Counter[str | None] = Counter()
    apps: dict[str | None, set[str]] = {}
    shared: dict[str, list[str]] = {}
    """By folded error, what stands for each `*` in all errors so far, or `*`."""
    rows = iter(rows)
    while some := list(islice(rows, _FOLDED_AT_ONCE)):
        # Once masked, a text may be short: the star keeps its end open.
        texts = [
            _cut(mask_cut(text) + "*") if text and len(text) > LONGEST else mask(text or "")
            for _, text, _ in some
        ]
        for (app_id, _, count), text, folded in zip(some, texts, fold(texts), strict=True):
            key = folded if text else None
            links[key] += count
            apps.setdefault(key, set()).add(app_id)
            if key is not None and (before := shared.get(key, [""])) != ["*"] * len(before):
                found = _replaced(key, text)
                if key in shared:
                    pairs = zip(found, before, strict=True)
                    found = [part if part == old else "*" for part, old in pairs]
                shared[key] = found
    return [
        ErrorGroup(key and _filled(key, shared[key]), count, len(apps[key]))
        for key, count in sorted(links.items(), key=lambda item: (-item[1], item[0] or ""))
    ]


def _cut(error: str) -> str:
    return error if len(error) <= LONGEST else error[:LONGEST] + "*"


def _replaced(folded: str, text: str) -> list[str]:
    """Returns what stands in the text for each `*`, or `*` if it can't be pasted."""
    if "*" not in folded:
        return []
    first, *literals, last = folded.split("*")
    place, end = len(first), len(text) - len(last)
    found = []
    for literal in literals:
        start = text.index(literal, place, end)
        found.append(text[place:start])
        place = start + len(literal)
    found.append(text[place:end])
    return [part if _open_ended(_UNPRINTABLE.sub("*", part)) == part else "*" for part in found]


def _filled(folded: str, parts: Iterable[str]) -> str:
    """Puts the parts in place of each `*`."""
    first, *literals = folded.split("*")
    return first + "".join(map("".join, zip(parts, literals, strict=True)))


def _replace(match: re.Match[str]) -> str:
    return match["kept"] or f"{match['notification'] or match['event'] or ''}*"


def _replace_unseen(match: re.Match[str]) -> str:
    """Replaces what a screen shows as something else, or as a blank."""
    return "".join(
        "*" if character.isspace() or inert(character) != character else character
        for character in match[0]
    )


def _open_ended(text: str) -> str:
    """Replaces the outer blanks, which are lost when a line is copied."""
    kept = text.strip(" ")
    if kept == text:
        return text
    return "*" * text.startswith(" ") + kept + "*" * (text.endswith(" ") and bool(kept))
