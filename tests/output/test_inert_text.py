from datetime import UTC, datetime, timedelta, timezone

import pytest

from docora_ops.render.columns import cell
from docora_ops.text import inert, moment
from tests.support.hostile_texts import EVIL, TRICKS
from tests.support.terminal import assert_inert


def test_hostile_text_stays_one_printable_line_in_which_no_markup_is_read() -> None:
    for text in (*TRICKS, EVIL, "\0", "lone\ud800surrogate\udfff", "x" * 2000, ""):
        assert_inert(inert(text))
        assert len(inert(text).splitlines()) <= 1
        assert (cell(text).plain, cell(text).spans) == (inert(text), [])


def test_no_character_gets_through_that_does_not_print() -> None:
    """Of the planes that have others than CJK characters."""
    assert_inert(inert("".join(map(chr, (*range(0x20000), *range(0xE0000, 0xE1000))))))


@pytest.mark.parametrize(
    ("text", "shown"),
    [*TRICKS.items(), ("\ud800", "\\ud800"), ("\0", "\\x00"), (12, "12"), (None, "None")],
)
def test_what_prints_is_kept_and_what_does_not_is_spelled_out(text: object, shown: str) -> None:
    assert inert(text) == shown


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (None, None),
        (datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), "2026-01-02T03:04:05.678Z"),
        (datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T23:00:00.000Z"),
    ],
)
def test_a_moment_is_written_as_docora_writes_it(when: datetime | None, text: str | None) -> None:
    assert moment(when) == text
