"""What looks like a secret is cut out, whatever is around it."""

import pytest

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
        ("HTTP 500 on created src/index.ts", None),
    ],
)
def test_secrets_in_a_text(text: str, masked: str | None) -> None:
    assert mask(text, ["hush", None, ""]) == (text if masked is None else masked)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("see https://user:passw", "see https://***"),
        (
            "to https://u:p@h.example/x, then https://us",
            "to https://***@h.example/x, then https://***",
        ),
        ("?token=abc", "?token=***"),
        ("refused ghp_01234", "refused ***"),
        (f"bad value {ENCRYPTED[:50]}", "bad value ***"),
        (f"bad value {ENCRYPTED[:-3]}", "bad value ***"),
        ("HTTP 500 on created src/index.t", None),
        ("https://github.com/octo/ap", None),
    ],
)
def test_a_secret_of_which_only_the_beginning_is_there(text: str, masked: str | None) -> None:
    assert mask_cut(text) == (text if masked is None else masked)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://github.com/octo/api", "https://github.com/octo/api"),
        ("https://u:p@h:8443/x", "https://***@h:8443/x"),
        ("https://u:p%40@[::1]:1/x", "https://***@[::1]:1/x"),
        ("https://h/x?token=t#f", "https://h/x?***#***"),
        ("https://u:p@[::1/x?token=t", "https://***@[::1/x"),
        ("git@github.com:octo/api", "git@github.com:octo/api"),
    ],
)
def test_secrets_in_a_url(url: str, masked: str) -> None:
    assert mask_url(url) == masked
