"""URLs that git is never given, and names that lead out of REPOS_BASE_PATH."""

import logging
import subprocess
from pathlib import Path

import pytest

from tests.support.delivery_checks import failure, git_failures
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

PASSWORD = "hunter2"
CLONES = ".docora-ops/clones"


def fail(snapshots: Snapshots, link: TestLink) -> str:
    """Run the job, which must fail without git having been blamed; returns what is said of it."""
    error = failure(snapshots, link)
    assert git_failures(snapshots, link) == 0
    assert snapshots.received().requests == []
    return error


@pytest.fixture
def link(snapshots: Snapshots) -> TestLink:
    repository = snapshots.docora.add_repository("octo/api", url="file:///nowhere")
    return snapshots.link(snapshots.add_app(), repository)


@pytest.fixture
def whole_link(snapshots: Snapshots) -> TestLink:
    """Nothing is wrong with its repository."""
    return snapshots.add_link({"a": "1\n"})[0]


def set_url(snapshots: Snapshots, url: str) -> None:
    snapshots.docora.connection.execute("UPDATE repositories SET github_url = %s", (url,))


def set_names(snapshots: Snapshots, owner: str, name: str) -> None:
    snapshots.docora.connection.execute(
        "UPDATE repositories SET owner = %s, name = %s", (owner, name)
    )


@pytest.fixture
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be run."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.parametrize(
    "url",
    [
        "-oProxyCommand=touch MARKER",
        "--upload-pack=touch MARKER",
        "ext::sh -c touch%20MARKER",
        "ext://sh -c touch MARKER",
        "file::MARKER",
        "git@127.0.0.1:octo/api",
        "127.0.0.1:octo/api",
        "https://127.0.0.1/a b",
        "https://127.0.0.1/a\nb",
        " https://127.0.0.1/a",
        "https://127.0.0.1/a\tb",
        "https:///a",
        "https://[::1/a",
        "https://127.0.0.1:0/a",
        "https://127.0.0.1:port/a",
        "HTTPS://127.0.0.1/a",
        "",
    ],
)
def test_what_is_no_plain_url_is_refused(
    snapshots: Snapshots, link: TestLink, no_git: None, url: str
) -> None:
    marker = snapshots.folder / "marker"
    # Even where all of this were allowed.
    snapshots.settings_changes["git_protocols"] = "https,ext,file,ssh"
    set_url(snapshots, url.replace("MARKER", str(marker)))
    assert "is not one that git may be given" in fail(snapshots, link)
    assert not marker.exists()


@pytest.mark.parametrize(
    "url",
    [
        f"https://ada:{PASSWORD}@127.0.0.1/octo/api",
        f"https://{PASSWORD}@127.0.0.1/octo/api",
        f"ssh://git:{PASSWORD}@127.0.0.1/octo/api",
        f"http://ada:{PASSWORD}@127.0.0.1/octo/api",
        f"http://ada:x'{PASSWORD}@127.0.0.1/octo/api",
        f"http://ada:x@{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:x {PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:x/{PASSWORD}@127.0.0.1/octo/api",
        f"HTTPS://ada:{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:{'x' * 300}{PASSWORD}@127.0.0.1/octo/api",
        f"https://ada:{PASSWORD}{'x' * 300}@127.0.0.1/octo/api",
    ],
)
def test_a_url_with_a_login_is_refused_without_showing_it(
    snapshots: Snapshots, link: TestLink, no_git: None, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots.settings_changes["git_protocols"] = "https,ssh"
    set_url(snapshots, url)
    with caplog.at_level(logging.DEBUG):
        error = fail(snapshots, link)
    assert PASSWORD not in error + caplog.text
    assert "URL" in error


@pytest.mark.parametrize("url", ["file:///octo/api", "http://127.0.0.1/a", "ssh://git@127.0.0.1/a"])
def test_only_https_is_allowed_where_nothing_else_is_said(
    snapshots: Snapshots, link: TestLink, no_git: None, url: str
) -> None:
    snapshots.settings_changes["git_protocols"] = snapshots.docora.settings.git_protocols
    set_url(snapshots, url)
    error = fail(snapshots, link)
    protocol = url.partition(":")[0]
    assert f" uses {protocol}: allowed is https (DOCORA_OPS_GIT_PROTOCOLS)" in error


def test_a_protocol_of_the_settings_is_allowed(snapshots: Snapshots, whole_link: TestLink) -> None:
    snapshots.settings_changes["git_protocols"] = "https,file"
    snapshots.run_job(whole_link)
    assert snapshots.docora.status(whole_link) == "synced"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("..", "api"),
        ("octo", ".."),
        ("..", ".."),
        (".", "api"),
        ("octo", "."),
        ("", "api"),
        ("octo", ""),
        ("octo/sub", "api"),
        ("octo", "../api"),
        ("/octo", "api"),
        ("octo", "/api"),
    ],
)
def test_names_that_would_leave_the_folder_are_refused(
    snapshots: Snapshots, link: TestLink, no_git: None, owner: str, name: str
) -> None:
    set_names(snapshots, owner, name)
    before = sorted(snapshots.folder.rglob("*"))
    assert "would leave REPOS_BASE_PATH" in fail(snapshots, link)
    assert sorted(snapshots.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("where", "target"),
    [("octo", "outside"), ("octo/api", "outside/api"), ("octo", "repos/.docora-ops/clones/octo")],
)
def test_a_symlink_that_leads_out_is_refused(
    snapshots: Snapshots, link: TestLink, no_git: None, where: str, target: str
) -> None:
    outside = snapshots.folder / "outside"
    (outside / "api").mkdir(parents=True)
    (outside / "api" / "HEAD").write_text("somebody's\n")
    path = snapshots.repos / CLONES / where
    path.parent.mkdir(parents=True)
    path.symlink_to(snapshots.folder / target)
    assert "would leave REPOS_BASE_PATH" in fail(snapshots, link)
    assert tree(outside) == {Path("api"): None, Path("api/HEAD"): b"somebody's\n"}


def test_a_name_that_is_too_long_for_the_disk_fails_in_words(
    snapshots: Snapshots, whole_link: TestLink
) -> None:
    set_names(snapshots, "octo", "ä" * 200)
    assert "name too long" in fail(snapshots, whole_link)


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("files", [["notes.txt"], ["src/a.py", "b"], [".hidden"], [""]])
def test_somebodys_files_where_the_clone_belongs_are_not_touched(
    snapshots: Snapshots, whole_link: TestLink, files: list[str]
) -> None:
    """A file in the place of the folder itself, too."""
    folder = snapshots.repos / CLONES / "octo/api"
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious\n")
    before = tree(folder.parent)
    error = "is in the way, and is not a clone" if files != [""] else "REPOS_BASE_PATH"
    assert error in fail(snapshots, whole_link)
    assert tree(folder.parent) == before
