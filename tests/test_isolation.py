"""No test meets what another has left or the caller's shell has set, and any user can run them."""

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


def test_a_command_runs_as_a_plain_user_in_a_temporary_clone(repository_root: Path) -> None:
    committed = subprocess.run(["git", "ls-tree", "HEAD"], cwd=repository_root, check=False)
    if committed.returncode:
        pytest.skip("not in a repository of git of this user")
    show = 'id -u; pwd; echo "$HOME"; test -f Makefile && touch written "$HOME/written" && exit 3'
    ended = subprocess.run(
        ["sh", "tests/as_plain_user.sh", "sh", "-c", show],
        cwd=repository_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3, ended
    user, clone, home = ended.stdout.splitlines()
    assert user != "0"
    assert Path(clone).parent == Path(home).parent != repository_root.parent
    assert not Path(clone).parent.exists()
