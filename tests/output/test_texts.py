"""Texts are shown inert and without secrets, and moments as Docora writes them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import redis

from docora_ops.errors import RedisError
from docora_ops.queue.redis_client import redis_errors
from docora_ops.render.columns import cell
from docora_ops.text import good_until, inert, mask, mask_cut, mask_url, moment
from tests.support.hostile_texts import EVIL, TRICKS
from tests.support.terminal import assert_inert

ENCRYPTED = f"{'0a' * 16}:{'1b' * 16}:{'2c' * 9}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("see https://u:p@ss@h.example/a@b", "see https://***@h.example/a@b"),
        ("https://ghp_0123456789abcdefABCD@github.com", "https://***@github.com"),
        ("token ghp_0123456789abcdefABCD, refused", "token ***, refused"),
        ("github_pat_11AAAAAAA0123456789_x", "***"),
        (f"bad value {ENCRYPTED}.", "bad value ***."),
        ("hush is said", "*** is said"),
        ("https://github.com/octo/api and me@mail.example", None),
    ],
)
def test_secrets_in_a_text(text: str, masked: str | None) -> None:
    assert mask(text, ["hush", None, ""]) == (text if masked is None else masked)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to https://u:p@h.example/x, then https://us", "to https://***@h.example/x, then"),
        (f"bad value\n{ENCRYPTED[:50]}", "bad value"),
        ("https://user:passw", "***"),
        ("", "***"),
    ],
)
def test_a_text_that_was_cut_off_loses_its_last_word(text: str, masked: str) -> None:
    assert mask_cut(text) == masked


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://github.com/octo/api", "https://github.com/octo/api"),
        ("https://u:p@h:8443/x", "https://***@h:8443/x"),
        ("https://h/x?key=t#f", "https://h/x?***"),
        ("https://u:p@[::1/x#f", "https://***@[::1/x#***"),
        ("git@github.com:octo/api", "git@github.com:octo/api"),
        ("https://hook:s3cr'et@app.example/x", "https://***@app.example/x"),
        ('https://u:a"b c@h/x', "https://***@h/x"),
        ("//u:p<w>@h/x", "//***@h/x"),
    ],
)
def test_secrets_in_a_url(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_arguments_that_redis_repeats_are_not_shown() -> None:
    answer = "unknown command 'AUTH', with args beginning with: 'ops' 'hunter2secret'"
    with pytest.raises(RedisError) as caught, redis_errors(redis.Redis()):
        raise redis.ResponseError(answer)
    assert "unknown command 'AUTH'" in caught.value.message
    assert "hunter2secret" not in caught.value.message


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


@pytest.mark.parametrize(
    ("seconds", "oldest", "text"),
    [
        (3600, 5400, "22:30Z, 1h30m ago"),
        (3600, 50_000, "10:06Z to 23:00Z"),
        (3600, 90_000, "2026-11-29 to 2026-11-30"),
        (40_000, 86_400, "2026-11-30, 1d ago"),  # both on one day
    ],
)
def test_both_ends_of_a_span_have_one_form(seconds: int, oldest: int, text: str) -> None:
    now = datetime(2026, 12, 1, tzinfo=UTC)
    assert good_until(now - timedelta(seconds=seconds), seconds, oldest) == text
