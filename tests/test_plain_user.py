"""`make test-plain` and CI run commands as a plain user, and fail if these fail."""

import subprocess
from pathlib import Path

import pytest


def test_a_command_runs_as_a_plain_user_in_a_clone_that_is_gone_afterwards(
    repository_root: Path,
) -> None:
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
