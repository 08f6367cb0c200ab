"""Making errors equal that differ only in paths, numbers and ids."""

from __future__ import annotations

import re
from collections.abc import Sequence

from docora_ops.text import inert

LONGEST = 300  # characters of an error that are compared

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
        | (?P<kept> (?: HTTP (?:/[\d.]+)? \  | error:\  ) [1-5]\d\d (?!\w) )
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

    Keeps the status of an HTTP answer. The option `--error` of a command finds an error by its
    folded text: `*` also replaces what nobody can type, such as control characters and outer
    blanks, and what follows the first LONGEST characters. Takes linear time.
    """
    text = _SEPARATOR.join(
        error if len(error) <= LONGEST else error[:LONGEST] + "*" for error in errors
    )
    text = _UNPRINTABLE.sub(_replace_unseen, _VARIABLE.sub(_replace, text))
    return [_open_ended(each) for each in _REPEATED.sub("*", text).split(_SEPARATOR)]


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
