import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from docora_ops.bulk import BulkResult
from docora_ops.links import (
    Action,
    App,
    AppCount,
    Link,
    LinkFailure,
    LinkRef,
    LinkResult,
    Outcome,
    Payload,
    PlannedLink,
)
from docora_ops.render import bulk, link_result
from docora_ops.render.cells import cell
from docora_ops.render.console import make_console
from docora_ops.render.plain import lines
from docora_ops.render.short_lists import app_counts, failures
from docora_ops.text import inert, moment
from tests.support.hostile_texts import EVIL, TRICKS
from tests.support.terminal import assert_inert

HOSTILE = [*TRICKS, EVIL, "\0", "lone\ud800surrogate\udfff", "x" * 2000, ""]
hostile = pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))


@hostile
def test_hostile_text_stays_one_printable_line(text: str) -> None:
    assert_inert(inert(text))
    assert len(inert(text).splitlines()) <= 1
    inert(text).encode("utf-8")


def test_no_character_at_all_gets_through_that_does_not_print() -> None:
    assert_inert(inert("".join(map(chr, range(0x110000)))))


@pytest.mark.parametrize(
    ("text", "shown"),
    [*TRICKS.items(), ("\ud800", "\\ud800"), ("\0", "\\x00"), (12, "12"), (None, "None")],
)
def test_what_prints_is_kept_and_what_does_not_is_spelled_out(text: object, shown: str) -> None:
    assert inert(text) == shown


@hostile
def test_a_cell_reads_no_markup(text: str) -> None:
    assert cell(text).plain == inert(text)
    assert cell(text).spans == []


def every_table(text: str, width: int) -> Iterator[tuple[str, list[RenderableType]]]:
    """Each table, with `text` wherever the database or an error speaks."""
    ref = LinkRef("row", text, text)
    payload = Payload(text, text, text, text, text, text, text, "secret-token", "secret-key")
    link = Link(ref, payload, text, 5, text, None, read_at=datetime.now(UTC))
    result = LinkResult(Action.RETRY, link, Outcome.QUEUED, None)
    app = App(text, text)
    counts = {Outcome.QUEUED: 1}
    many = BulkResult(Action.RETRY, "bulk_0", 1, counts, {app: counts, App("a", "b"): counts})
    planned = PlannedLink(text, text, text, text, Outcome.NOT_QUEUED, text)
    yield "link", [link_result.table(result)]
    yield "plan", [*bulk.plan_tables([planned], width)]
    yield "bulk", [bulk.table(many, width)]
    yield "failures", [failures([LinkFailure(text, text, text, text, text, text)], width)]
    yield "apps", [app_counts([AppCount(text, text, 3)])]


def in_pipe(renderables: Iterable[RenderableType]) -> list[str]:
    return [line for each in renderables for line in lines(each)]


def on_screen(renderables: Iterable[RenderableType], width: int) -> list[str]:
    stream = StringIO()
    console = make_console(stream)
    console.width = width
    for renderable in renderables:
        console.print(renderable)
    return stream.getvalue().split("\n")


@hostile
@pytest.mark.parametrize("width", [40, 80])
def test_on_a_narrow_terminal_hostile_text_is_wrapped_and_no_more(text: str, width: int) -> None:
    letters = Counter(inert(text).replace(" ", ""))
    for name, table in every_table(text, width):
        shown = on_screen(table, width)
        assert_inert("\n".join(shown))
        assert max(map(cell_len, shown)) <= width, name
        assert not letters - Counter("".join(shown)), name


@pytest.mark.parametrize("width", [80, 200])
def test_the_summary_has_one_row_for_each_app_and_one_for_all(width: int) -> None:
    counts = dict.fromkeys([Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.ALREADY_RUNNING], 2)
    by_app = {
        App("app_04c2f7a91be85d3360e1a7c4", "Acme Search"): {Outcome.QUEUED: 2},
        App("app_c96a4e02d8f7135b9e0c2a74", "Maple Review"): {
            Outcome.REPLACED_STALE: 2,
            Outcome.ALREADY_RUNNING: 2,
        },
    }
    summary = bulk.table(BulkResult(Action.RETRY, "bulk_0", 6, counts, by_app), width)
    rows = [" ".join(line.split()) for line in on_screen([summary], width)]
    narrow = [
        *("all 2 queued, 2 replaced stale, 2 already running", ""),
        *("Acme Search 2 queued", "Maple Review 2 replaced stale, 2 already running"),
    ]
    wide = [
        *("all 2 2 2 6", "", "Acme Search (app_04c2f7a91be85d3360e1a7c4) 2 0 0 2"),
        "Maple Review (app_c96a4e02d8f7135b9e0c2a74) 0 2 2 4",
    ]
    assert rows[2:-1] == (narrow if width == 80 else wide)


def test_a_very_long_text_is_cut_on_a_screen_with_a_note() -> None:
    table = failures([LinkFailure("link", "app", "repo", "z" * 150_000)], 80)
    shown = "".join("".join(on_screen([table], 80)).split())
    assert shown.count("z") == 2000
    assert "…and148,000charactersmore:see--json" in shown


def test_in_a_pipe_a_long_text_costs_no_more_than_its_length() -> None:
    short, long = (
        LinkFailure(job_id, "app", "repo", error)
        for job_id, error in (("a" * 30, "bomb"), ("b" * 100_000, "boom"))
    )
    table = failures([short] * 18 + [long], sys.maxsize)
    shown = in_pipe([table])
    assert sum(map(len, shown)) < 150_000
    assert shown[-1] == f" {long.job_id}   boom"
    assert len({line.index("bomb") for line in shown[2:-1]}) == 1


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (None, None),
        (datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), "2026-01-02T03:04:05.678Z"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00.000Z"),
        (datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T23:00:00.000Z"),
    ],
)
def test_a_moment_is_written_as_docora_writes_it(when: datetime | None, text: str | None) -> None:
    assert moment(when) == text
