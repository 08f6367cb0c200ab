"""Making errors equal that differ only in paths, numbers and ids."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 300  # characters of an error that are compared

# In no text of Postgres. One call for many texts takes a fraction of the time of a call for each.
_SEPARATOR = "\0"

# Each alternative begins only where the run of its characters does, so the time stays linear.
_VARIABLE = re.compile(
    r"""
    # Docora's own worker puts the reason behind the path. Some texts of Node hold ": " too.
    (?P<notification> (?<![^\0]) Notification\ failed\ for\ (?:created|updated|deleted)\  )
    (?: [^\0]+ (?= :\ (?:Hostname/IP|Parse\ Error|Redirected\ request) )
      | [^\0]+ (?= :\  )
      | [^\0]+ )
    | (?P<kept> (?: \b HTTP (?:/[\d.]+)? \  | \b error:\  ) [1-5]\d\d (?!\w) )
    | (?P<event> \ on\ (?:created|updated|deleted)\  ) [^\0]+
    | \b \w++ :// (?: [^\s\0"'<>]* [^\s\0"'<>.,:;)] )?
    | "[^"\0]*+"
    | (?<!\w) '[^'\0]*+' (?!\w)
    | `[^`\0]*+`
    # a path
    | (?<![\w.~%@:+-]) [\w.~%@:+-]*+ [/\\] (?: [^\s\0"'<>(),;]* [^\s\0"'<>(),;.:] )?
    # a date, a time, an address, an amount, an id
    | (?<![\w.@-]) \d (?: [\w:.,+-]* \w )?
    # a file or a host, but not the name of an exception
    | (?<![\w.@-]) \w [\w@-]*+ (?: \. (?! (?-i:[A-Z][a-z]) ) \w [\w@-]*+ )++ (?! \.\w )
    | (?<![\w-]) (?: app | repo | bulk )_ [\w-]++
    | (?<![\w-]) (?= [a-f-]*+ \d ) [0-9a-f-]{7,}+ (?!\w)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REPEATED = re.compile(r"\* (?: [\ ,:]++ \* )++", re.VERBOSE)


def fold(errors: Sequence[str]) -> list[str]:
    """Replaces paths, URLs, numbers, ids and quotations in each error by `*`.

    Keeps the status of an HTTP answer. Takes linear time.
    """
    text = _SEPARATOR.join(error[:LONGEST] for error in errors)
    return _REPEATED.sub("*", _VARIABLE.sub(_replace, text)).split(_SEPARATOR)


def _replace(match: re.Match[str]) -> str:
    return match["kept"] or f"{match['notification'] or match['event'] or ''}*"
