"""Who changed something by the audit entries: nobody takes another's name."""

import os
import pwd
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.docora import Docora

HOST = os.uname().nodename


def who(docora: Docora) -> str:
    [entry] = docora.run("history", "--json").data
    return str(entry["who"])


def as_the_kernel_says() -> str:
    """Who we are, if nobody claims another name."""
    user = pwd.getpwuid(os.getuid()).pw_name
    with suppress(OSError, KeyError):
        login = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
        if login not in {2**32 - 1, os.getuid()}:
            return f"{pwd.getpwuid(login).pw_name} as {user}"
    return user


def test_who_it_was_is_what_the_kernel_says(docora: Docora) -> None:
    link = docora.add_link()
    assert docora.run("retry", *link.ids).code == 0
    assert who(docora) == f"{as_the_kernel_says()}@{HOST}"


def test_the_login_is_named_beside_the_user_and_a_claim_of_the_environment_is_not(
    docora: Docora,
) -> None:
    link, login = docora.add_link(), pwd.getpwuid(1).pw_name
    line = f"echo 1 >/proc/self/loginuid || exit 99; docora-ops retry {' '.join(link.ids)}"
    done = docora.run_in_shell(line, env={"SUDO_USER": "alice"})
    if done.code == 99:
        pytest.skip("only root may say who has logged in")
    assert done.code == 0, done
    assert who(docora) == f"{login} as {pwd.getpwuid(os.getuid()).pw_name}@{HOST}"
