"""What looks like a secret is cut out, whatever is around it."""

import pytest
import redis

from docora_ops.errors import RedisError
from docora_ops.queue.redis_client import redis_errors
from docora_ops.text import mask, mask_cut, mask_url

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


def test_a_password_in_a_url_is_masked_whatever_it_holds() -> None:
    for url in ("https://hook:s3cr'et@app.example/x", 'https://u:a"b c@h/x', "//u:p<w>@h/x"):
        shown = mask_url(url)
        assert "***@" in shown, shown
        assert not any(each in shown for each in ("s3cr", 'a"b', "<w>")), shown
