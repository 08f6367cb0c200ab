"""URLs that git is never given, and names that lead out of REPOS_BASE_PATH."""

from pathlib import Path

import pytest
from redis import Redis

from docora_ops.errors import SnapshotError
from docora_ops.settings import Settings
from docora_ops.worker.clone import Clone, RepositoryLock
from docora_ops.worker.git import Git
from tests.support.delivery_checks import failure, git_failures
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

PASSWORD = "hunter2"
CLONES = ".docora-ops/clones"
LOCK = RepositoryLock(Redis(), "octo/api")


def git_for(url: str, *protocols: str) -> Git:
    return Git(url, token=None, protocols=protocols, timeout=1, keep_alive=lambda: None)


def refusal(url: str, *protocols: str) -> str:
    with pytest.raises(SnapshotError) as caught:
        git_for(url, *protocols)
    return caught.value.message


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    "url",
    [
        "-oProxyCommand=touch MARKER",
        "--upload-pack=touch MARKER",
        "ext::sh -c touch%20MARKER",
        "ext://sh -c touch MARKER",
        "file::MARKER",
        "git@127.0.0.1:octo/api",
        "https://127.0.0.1/a\nb",
        " https://127.0.0.1/a",
        "https://127.0.0.1/a\tb",
        "https:///a",
        "https://[::1/a",
        "HTTPS://127.0.0.1/a",
        "",
    ],
)
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    # Even where all of this were allowed.
    assert "is not one that git may be given" in refusal(url, "https", "ext", "file", "ssh")


@pytest.mark.parametrize(
    "url",
    [
        f"https://ada:{PASSWORD}@127.0.0.1/octo/api",
        f"https://{PASSWORD}@127.0.0.1/octo/api",
        f"ssh://git:{PASSWORD}@127.0.0.1/octo/api",
        f"http://ada:x@{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:x {PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:x/{PASSWORD}@127.0.0.1/octo/api",
        f"HTTPS://ada:{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:{'x' * 300}{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:{PASSWORD}{'x' * 300}@127.0.0.1/octo/api",
    ],
)
def test_a_url_with_a_login_is_refused_without_showing_it(url: str) -> None:
    error = refusal(url, "https", "ssh")
    assert PASSWORD not in error
    assert "URL" in error


@pytest.mark.parametrize("url", ["file:///octo/api", "http://127.0.0.1/a", "ssh://git@127.0.0.1/a"])
def test_only_https_is_allowed_where_nothing_else_is_said(url: str) -> None:
    protocols = Settings.model_fields["git_protocols"].default
    assert protocols == "https"
    git_for(url, url.partition(":")[0])
    error = refusal(url, protocols)
    protocol = url.partition(":")[0]
    assert f" uses {protocol}: allowed is https (DOCORA_OPS_GIT_PROTOCOLS)" in error


def test_a_refused_url_fails_the_link_and_not_its_repository(snapshots: Snapshots) -> None:
    repository = snapshots.docora.add_repository("octo/api", url="--upload-pack=touch x")
    link = snapshots.link(snapshots.add_app(), repository)
    assert "is not one that git may be given" in failure(snapshots, link)
    assert git_failures(snapshots, link) == 0
    assert snapshots.received().requests == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("..", "api"),
        ("octo", ".."),
        ("octo", ""),
        ("octo/sub", "api"),
        ("octo", "../api"),
    ],
)
def test_names_that_would_leave_the_folder_are_refused(
    tmp_path: Path, owner: str, name: str
) -> None:
    with pytest.raises(SnapshotError, match="would leave REPOS_BASE_PATH"):
        Clone(tmp_path, owner, name, git_for("https://h/a", "https"), LOCK)


@pytest.mark.parametrize("where", ["octo", "octo/api"])
def test_a_symlink_is_not_followed(tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    (outside / "api").mkdir(parents=True)
    path = tmp_path / "repos" / CLONES / where
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    with pytest.raises(SnapshotError, match="would leave REPOS_BASE_PATH"):
        Clone(tmp_path / "repos", "octo", "api", git_for("https://h/a", "https"), LOCK)


def fail(snapshots: Snapshots, link: TestLink) -> str:
    """Runs the job, which must fail without git having been blamed; returns the error."""
    error = failure(snapshots, link)
    assert git_failures(snapshots, link) == 0
    assert snapshots.received().requests == []
    return error


@pytest.mark.parametrize("files", [["src/a.py", ".hidden"], [""]])
def test_somebodys_files_where_the_clone_belongs_are_not_touched(
    snapshots: Snapshots, files: list[str]
) -> None:
    """A file in the place of the folder itself, too."""
    link, _ = snapshots.add_link({"a": "1\n"})
    folder = snapshots.repos / CLONES / "octo/api"
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious\n")
    before = tree(folder.parent)
    error = "is in the way, and is not a clone" if files != [""] else "REPOS_BASE_PATH"
    assert error in fail(snapshots, link)
    assert tree(folder.parent) == before
