from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from docora_ops.models import (
    App,
    AppCount,
    BulkResult,
    Link,
    LinkFailure,
    LinkRef,
    LinkResult,
    Operation,
    Outcome,
    Payload,
    PlannedLink,
)
from docora_ops.render import tables
from docora_ops.render.console import make_console
from docora_ops.render.text import cell, inert, moment

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31mred",
    "\x9d0;title\x9c",
    "two\nlines",
    "two\r\nlines",
    "over\rwritten",
    "back\b\b\bspace",
    "\a\0\x7f\v\f\t",
    "line\u2028and\u2029paragraph\x85next",
    "\u202egnp.exe",
    "\u2066isolated\u2069",
    "zero\u200bwidth\u200djoined\ufeff",
    "\U000e0041\U000e0042tags",
    "lone\ud800surrogate\udfff",
    "private\ue000\U0010ffff",
    "[red]markup[/red] [/] [link=https://evil.example]x[/link]",
    ":boom: {0} %s %(x)s ${HOME}",
    "Größe 検索 💥 e\u0301",
    "  spaces  ",
    "\u00a0no-break\u3000wide",
    "\\x1b[31m as typed",
    "x" * 10_000,
    "",
]
WIDE = 1_000_000
hostile = pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))


def is_one_printable_line(text: str) -> bool:
    return (
        not any(
            unicodedata.category(character)[0] == "C"
            or unicodedata.category(character) in {"Zl", "Zp"}
            for character in text
        )
        and len(text.splitlines()) <= 1
    )


@hostile
def test_hostile_text_stays_one_printable_line(text: str) -> None:
    assert is_one_printable_line(inert(text))
    inert(text).encode("utf-8")


def test_no_character_at_all_gets_through_that_does_not_print() -> None:
    everything = "".join(map(chr, range(0x110000)))
    assert is_one_printable_line(inert(everything))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("HTTP 500 on created README.md", "HTTP 500 on created README.md"),
        ("Größe 検索 💥", "Größe 検索 💥"),
        ("e\u0301", "e\u0301"),
        ("[red]x[/red]", "[red]x[/red]"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202e", "\\u202e"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        (12, "12"),
        (None, "None"),
    ],
)
def test_what_prints_is_kept_and_what_does_not_is_spelled_out(text: object, shown: str) -> None:
    assert inert(text) == shown


@hostile
def test_a_cell_reads_no_markup(text: str) -> None:
    assert cell(text).plain == inert(text)
    assert cell(text).spans == []


def shown(*renderables: RenderableType, width: int) -> str:
    stream = StringIO()
    console = make_console(stream)
    console.width = width
    for renderable in renderables:
        console.print(renderable)
    return stream.getvalue()


def every_table(text: str, width: int = WIDE) -> Iterable[tuple[str, str]]:
    """Each table, with `text` wherever the database or an error speaks."""
    ref = LinkRef("row", text, text)
    payload = Payload(text, text, text, text, text, text, text, "secret-token", "secret-key")
    link = Link(ref, payload, text, 5, text, None)
    result = LinkResult(Operation.RETRY, link, Outcome.QUEUED, None)
    app = App(text, text)
    counts = {Outcome.QUEUED: 1}
    many = BulkResult(Operation.RETRY, "bulk_0", 1, counts, {app: counts, App("a", "b"): counts})
    planned = PlannedLink(text, text, text, text, Outcome.FAILED, text)
    yield "link", shown(tables.link_result(result), width=width)
    yield "plan", shown(*tables.plan([planned], width), width=width)
    yield "bulk", shown(tables.bulk_result(many, width), width=width)
    yield "failures", shown(tables.failures([LinkFailure(text, text)]), width=width)
    yield "apps", shown(tables.app_counts([AppCount(app, 3)]), width=width)


@hostile
def test_hostile_text_changes_no_table(text: str) -> None:
    harmless = dict(every_table("harmless"))
    for name, table in every_table(text):
        lines = table.split("\n")
        assert len(lines) == len(harmless[name].split("\n")), name
        assert all(is_one_printable_line(line) for line in lines), name
        # A table may pad a cell but never cuts or changes it.
        assert inert(text).strip() in table, name
        assert "secret" not in table


@hostile
@pytest.mark.parametrize("width", [40, 80])
def test_on_a_narrow_terminal_hostile_text_is_wrapped_and_no_more(text: str, width: int) -> None:
    letters = Counter(inert(text).replace(" ", ""))
    for name, table in every_table(text, width):
        for line in table.split("\n"):
            assert is_one_printable_line(line), name
            assert cell_len(line) <= width, name
        assert not letters - Counter(table), name


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (None, None),
        (datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), "2026-01-02T03:04:05.678Z"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00.000Z"),
        (
            datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-01T23:00:00.000Z",
        ),
    ],
)
def test_a_moment_is_written_as_docora_writes_it(when: datetime | None, text: str | None) -> None:
    assert moment(when) == text
