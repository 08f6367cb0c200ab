"""Fetching over http: the token, and servers that answer late, elsewhere or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest

from docora_ops.errors import GitError
from docora_ops.worker import git
from docora_ops.worker.git import target_on_same_server
from tests.support.delivery_checks import (
    assert_in_sync,
    failure,
    git_failures,
    link_row,
    snapshot_row,
)
from tests.support.git_over_http import GitHandler, GitSite, basic, rename_with_redirect
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import TOKEN, Snapshots, Upstream
from tests.support.worker_processes import all_processes, command_line

LOCK = "docora:repo-lock:octo/api"


def git_processes(site: GitSite) -> list[int]:
    """Those that talk to the site."""
    host = site.url.removeprefix("http://")
    return [pid for pid in all_processes() if host in command_line(pid)]


def files_with(folder: Path, text: str) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_the_token_is_the_user_name_and_follows_a_redirect_on_the_same_server(
    snapshots: Snapshots, site: GitSite, link: TestLink, upstream: Upstream
) -> None:
    site.token = TOKEN
    snapshots.set_token(link, TOKEN)
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    assert basic(TOKEN) in site.logins
    assert files_with(snapshots.repos, "README.md") != []
    assert files_with(snapshots.repos, TOKEN) == []
    rename_with_redirect(site, upstream)
    upstream.path = upstream.path.with_name("renamed")
    upstream.commit({"README.md": "hello again\n"})
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


def test_another_server_is_not_asked_where_a_redirect_leads_to_it(
    snapshots: Snapshots, site: GitSite, link: TestLink
) -> None:
    snapshots.set_token(link, TOKEN)
    with GitSite(snapshots.folder / "upstream").serving() as other:

        def send_away(handler: GitHandler) -> bool:
            if handler.headers.get("Authorization") is None:
                handler.refuse()
            else:
                handler.redirect(other.url + handler.path)
            return False

        site.intercept = send_away
        error = failure(snapshots, link)
        assert "redirects to another server" in error
        assert other.url.rpartition(":")[2] not in error
        assert git_failures(snapshots, link) == 1
        assert basic(TOKEN) in site.logins
        assert other.paths == []


@pytest.mark.parametrize("lost", [False, True], ids=["no answer", "lost lock"])
def test_a_fetch_without_an_end_ends_when_its_time_is_up_or_the_lock_is_lost(
    snapshots: Snapshots,
    site: GitSite,
    link: TestLink,
    monkeypatch: pytest.MonkeyPatch,
    lost: bool,
) -> None:
    monkeypatch.setattr(git, "_KEEP_ALIVE_INTERVAL", 0.02)
    redis, found = snapshots.docora.redis, []

    def never(handler: GitHandler) -> bool:
        pids = git_processes(site)
        if not any(" fetch " in command_line(pid) for pid in pids):
            return True
        found.extend(pids)
        if lost:
            redis.set(LOCK, "somebody else")
        handler.rfile.read(1)  # until the client hangs up
        return False

    site.intercept = never
    snapshots.settings_changes["git_timeout"] = 60 if lost else 1
    error = failure(snapshots, link)
    assert error == (
        "the lock of octo/api was lost while git worked"
        if lost
        else "git fetch took longer than 1 s"
    )
    assert git_failures(snapshots, link) == (0 if lost else 1)
    assert found
    eventually(lambda: not git_processes(site), "the end of all git processes")
    assert redis.get(LOCK) == (b"somebody else" if lost else None)
    assert [path.name for path in (snapshots.repos / ".docora-ops").iterdir()] == ["clones"]


def replying(headers: dict[str, str], page: bytes) -> Callable[[GitHandler], bool]:
    def answer(handler: GitHandler) -> bool:
        handler.reply(200, headers, page)
        return False

    return answer


def test_an_answer_that_is_not_gits_is_a_git_failure_and_nothing_is_deleted(
    snapshots: Snapshots, site: GitSite, link: TestLink, upstream: Upstream
) -> None:
    snapshots.run_job(link)
    before = snapshots.docora.dump()[0]
    html = {"Content-Type": "text/html; charset=utf-8"}
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    for number, (kind, answer) in enumerate(
        (("text/html", replying(html, page)), ("no content type", replying({}, b""))), start=1
    ):
        site.intercept = answer
        error = f"answers with {kind}, not with git's list of branches: is a gateway or a login"
        assert error in failure(snapshots, link)
        assert git_failures(snapshots, link) == number
    assert snapshots.received().files == upstream.contents()
    after = snapshots.docora.dump()[0]
    for table in ("app_delivered_files", "repository_snapshots", "snapshot_files"):
        assert after[table] == before[table]


def test_an_empty_repository_is_in_sync_and_later_gets_its_files(
    snapshots: Snapshots, site: GitSite, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = snapshots.add_upstream()
    repository = snapshots.docora.add_repository("octo/api", url=f"{site.url}/octo/api")
    link = snapshots.link(snapshots.add_app(), repository)
    rename_with_redirect(site, upstream)  # whose answer must be judged, not that of the old name
    snapshots.run_job(link)
    assert link_row(snapshots, link) == ("synced", 0, None)
    assert git_failures(snapshots, link) == 0
    assert snapshots.received().requests == []
    assert "the repository has no branch, so nothing is sent" in caplog.text
    assert snapshot_row(snapshots, repository) is None
    upstream.path = upstream.path.with_name("renamed")
    upstream.commit({"a": "1\n"})
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


URL = "https://github.com/octo/api"
REFS = "/info/refs?service=git-upload-pack"


def test_only_redirects_to_a_repository_on_the_same_server_are_followed() -> None:
    for url, location, target in (
        (URL, f"https://github.com/octo/new.git{REFS}", "https://github.com/octo/new.git"),
        (URL, f"https://GitHub.com:443/repos/1{REFS}", "https://GitHub.com:443/repos/1"),
        (f"{URL}/", f"/octo/new{REFS}", "https://github.com/octo/new"),
    ):
        assert target_on_same_server(url, location) == target
    for location in (
        f"https://internal.example/octo/api{REFS}",
        f"https://github.com@internal.example/octo/api{REFS}",
        f"https://github.com:8443/octo/api{REFS}",
        f"http://github.com/octo/api{REFS}",
        f"https://github.com:port{REFS}",
    ):
        with pytest.raises(GitError, match="redirects to another server") as caught:
            target_on_same_server(URL, location)
        assert "internal" not in caught.value.message
    for location in ("/login", f"https://user@github.com/octo/api{REFS}"):
        with pytest.raises(GitError, match="redirects to something that is not a repository"):
            target_on_same_server(URL, location)


@pytest.mark.parametrize("token", [None, "another-token"])
def test_what_the_operator_logs_in_with_is_not_used_for_apps(
    snapshots: Snapshots,
    site: GitSite,
    link: TestLink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login operator password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    site.token = "operator"
    snapshots.set_token(link, token)
    error = failure(snapshots, link)
    assert "Authentication failed" in error or "could not read Username" in error
    assert basic("operator", "secret") not in site.logins
