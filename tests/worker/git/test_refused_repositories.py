"""URLs that git is never given, and names that lead out of REPOS_BASE_PATH."""

from pathlib import Path

import pytest
from redis import Redis

from docora_ops.errors import SnapshotError
from docora_ops.settings import Settings
from docora_ops.worker.clone import Clone, RepositoryLock
from docora_ops.worker.git import Git

PASSWORD = "hunter2"
CLONES = ".docora-ops/clones"
LOCK = RepositoryLock(Redis(), "octo/api", "app_1-repo_1")


def git_for(url: str, *protocols: str) -> Git:
    return Git(url, token=None, protocols=protocols, timeout=1, keep_alive=lambda: None)


def refusal(url: str, *protocols: str) -> str:
    with pytest.raises(SnapshotError) as caught:
        git_for(url, *protocols)
    return caught.value.message


def test_git_is_given_only_plain_urls_of_allowed_protocols_and_no_login_is_shown() -> None:
    for url in (
        "-oProxyCommand=touch MARKER",
        "ext::sh -c touch%20MARKER",
        "ext://sh -c touch MARKER",
        "file::MARKER",
        "git@127.0.0.1:octo/api",
        "https://127.0.0.1/a\nb",
        "https:///a",
        "https://[::1/a",
        "HTTPS://127.0.0.1/a",
        "",
    ):  # even where all of this were allowed
        assert "is not one that git may be given" in refusal(url, "https", "ext", "file", "ssh")
    for url in (
        f"https://{PASSWORD}@127.0.0.1/octo/api",
        f"ssh://git:{PASSWORD}@127.0.0.1/octo/api",
        f"http://ada:x@{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:x {PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:x/{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:{PASSWORD}{'x' * 300}@127.0.0.1/octo/api",
    ):
        error = refusal(url, "https", "ssh")
        assert "URL" in error
        assert PASSWORD not in error
    by_default = Settings.model_fields["git_protocols"].default
    assert by_default == "https"
    for url in ("file:///octo/api", "http://127.0.0.1/a", "ssh://git@127.0.0.1/a"):
        protocol = url.partition(":")[0]
        git_for(url, protocol)
        allowed = f" uses {protocol}: allowed is https (DOCORA_OPS_GIT_PROTOCOLS)"
        assert allowed in refusal(url, by_default)


def test_a_clone_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    git = git_for("https://h/a", "https")
    names = (("..", "api"), ("octo", ".."), ("octo", ""), ("octo/sub", "api"), ("octo", "../api"))
    for owner, name in (*names, ("octo", "a\0")):
        with pytest.raises(SnapshotError, match="would leave REPOS_BASE_PATH"):
            Clone(tmp_path, owner, name, git, LOCK)
    outside = tmp_path / "outside"
    (outside / "api").mkdir(parents=True)
    for number, where in enumerate(("octo", "octo/api")):
        path = tmp_path / f"{number}" / CLONES / where
        path.parent.mkdir(parents=True)
        path.symlink_to(outside)
        with pytest.raises(SnapshotError, match="would leave REPOS_BASE_PATH"):
            Clone(tmp_path / f"{number}", "octo", "api", git, LOCK)
