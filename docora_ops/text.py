"""Makes texts safe to show: without secrets and without control characters."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

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
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_DAY = 86_400  # seconds
_DURATION = re.compile("(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
_UNITS = ((_DAY, "d"), (3600, "h"), (60, "m"), (1, "s"))
_FEW = 10  # from this number of a unit on, the next smaller unit is left out
_LONGEST = 10**9  # seconds: other programs may have stored any number


def mask(text: str, secrets: Iterable[str | None] = ()) -> str:
    """Replaces GitHub tokens, encrypted values, passwords in URLs and `secrets` by `***`."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _SECRETS.sub(MASK, text)


def mask_cut(text: str) -> str:
    """Masks a truncated text, and drops its last word, which may be the beginning of a secret."""
    head, *last = text.rsplit(maxsplit=1) or [""]
    return mask(head) if last else MASK


def mask_url(url: str) -> str:
    """Masks the login, the query and the fragment of a URL, which may hold secrets."""
    url = re.sub(r"(?<=//)[^/?#]*@", f"{MASK}@", url)
    return mask(re.sub(r"(?<=[?#]).+", MASK, url, flags=re.DOTALL))


def inert(value: object) -> str:
    """Returns the value as one line. Spells out control and format characters."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _UNSAFE
        else character
        for character in text
    )


def flat(text: str | None) -> str:
    """Joins the lines of a text, such as an error of git; returns an empty text for None."""
    return " ".join(filter(None, map(str.strip, (text or "").split("\n"))))


def amount(count: int, noun: str, plural: str | None = None) -> str:
    """Returns `1 link` or `2,000 links`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def counted(counts: Mapping[str, int]) -> list[str]:
    """Returns a text such as `1,204 failed` for each name whose count is not 0."""
    return [f"{count:,} {name}" for name, count in counts.items() if count]


def moment(when: datetime | None) -> str | None:
    """Returns a time as Docora writes it: ISO 8601 in UTC with milliseconds and `Z`."""
    if when is None:
        return None
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str, *, shortest: int = 1, longest: int = 7 * _DAY) -> int:
    """Reads a duration: `90` (seconds), `30s`, `10m`, `1h30m` or `3d`. Raises ValueError.

    shortest, longest: the limits of the duration, in seconds.
    """
    typed = _DURATION.fullmatch(f"{text}s" if text.isdecimal() else text)
    numbers = map(int, typed.groups("0") if typed else ())
    seconds = sum(number * unit for number, unit in zip(numbers, (_DAY, 3600, 60, 1), strict=False))
    if not typed or not shortest <= seconds <= longest:
        raise ValueError(
            f"{text[:100]!r} is not a duration between {shortest} s and {longest // _DAY} days, "
            "such as 90, 30s, 10m, 1h30m or 2d"
        )
    return seconds


def duration(seconds: float) -> str:
    """Returns `45s`, `8m10s`, `12m`, `3h5m` or `2d`, as kubectl writes ages.

    Adds the next smaller unit only to a number below 10.
    """
    left = int(min(max(0, seconds), _LONGEST))
    units = [(size, unit) for size, unit in _UNITS if left >= size] or [(1, "s")]
    (size, unit), *smaller = units
    number, rest = divmod(left, size)
    text = f"{number}{unit}"
    if smaller and number < _FEW and rest >= smaller[0][0]:
        text += duration(rest // smaller[0][0] * smaller[0][0])
    return text


def ago(seconds: float | None) -> str:
    """Returns `5s ago`, or `unknown`."""
    return "unknown" if seconds is None else f"{duration(seconds)} ago"
