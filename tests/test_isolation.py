"""What a test leaves behind meets no other test, and the caller's shell meets none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.left_processes import none_left

DETACHED = """
exec </dev/null 2>/dev/null
trap '' HUP INT TERM
sleep 600 >/dev/null &
echo $$ $!
exec >/dev/null
wait
"""


def test_processes_are_ended_wherever_they_have_gone() -> None:
    start = ["sh", "-c", 'setsid sh -c "$0" &', DETACHED]
    with none_left():
        left = [Path("/proc", pid) for pid in subprocess.check_output(start, text=True).split()]
        assert all(process.exists() for process in left)
    assert not any(process.exists() for process in left)


@pytest.mark.slow
def test_settings_of_the_callers_shell_are_not_those_of_the_tests(repository_root: Path) -> None:
    names = ("DATABASE_URL", "DOCORA_OPS_ENV_FILE", "ENCRYPTION_KEY", "GIT_DIR", "HTTPS_PROXY")
    theirs = dict.fromkeys((*names, "LC_ALL", "PGSERVICE"), "x") | {"LANG": "C"}
    program = "import os, tests.conftest; print(*(f'{n}={v}' for n, v in os.environ.items()))"
    kept = subprocess.check_output(
        [sys.executable, "-c", program], cwd=repository_root, env=os.environ | theirs, text=True
    )
    assert {each for each in kept.split() if each.partition("=")[0] in theirs} == {"LANG=C.UTF-8"}
