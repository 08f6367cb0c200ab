"""Fetching: what git is given, the token, and servers that answer late, elsewhere or for ever."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis

from docora_ops.errors import GitError, SnapshotError
from docora_ops.settings import Settings
from docora_ops.worker import clone as scan
from docora_ops.worker import git
from docora_ops.worker.clone import Clone, RepositoryLock
from docora_ops.worker.git import Git, target_on_same_server
from tests.support.git_over_http import GitHandler, GitSite, basic, rename_with_redirect
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import TOKEN, Snapshots, Upstream
from tests.support.worker_processes import (
    command_line,
    git_processes,
)
from tests.worker.jobs import (
    assert_in_sync,
    events,
    failure,
    git_failures,
    link_row,
    repository_row,
    run_job,
    snapshot_row,
)

LOCK = "docora:repo-lock:octo/api"


def files_with(folder: Path, text: str) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_the_token_is_the_user_name_and_follows_a_redirect_on_the_same_server(
    snapshots: Snapshots, site: GitSite, link: TestLink, upstream: Upstream
) -> None:
    site.token = TOKEN
    snapshots.set_token(link, TOKEN)
    run_job(snapshots, link)
    assert_in_sync(snapshots, link, upstream)
    assert basic(TOKEN) in site.logins
    assert files_with(snapshots.repos, "README.md") != []
    assert files_with(snapshots.repos, TOKEN) == []
    rename_with_redirect(site, upstream)
    upstream.path = upstream.path.with_name("renamed")
    upstream.commit({"README.md": "hello again\n"})
    run_job(snapshots, link)
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
    snapshots: Snapshots, site: GitSite, link: TestLink, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    monkeypatch.setattr(git, "KEEP_ALIVE_INTERVAL", 0.02)
    redis = snapshots.docora.redis
    found: list[int] = []
    # Time stands still until the fetch has begun, however long the list of branches takes.
    clock = SimpleNamespace(monotonic=lambda: 3600 if found and not lost else 0)
    monkeypatch.setattr(git, "time", clock)

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
    snapshots.settings_changes["git_timeout"] = 60
    error = failure(snapshots, link)
    assert error == (
        "the lock of octo/api was lost while git worked"
        if lost
        else "git fetch took longer than 60 s"
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
    run_job(snapshots, link)
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
    caplog.set_level("INFO", "docora_ops.worker")
    rename_with_redirect(site, upstream)  # whose answer must be judged, not that of the old name
    run_job(snapshots, link)
    assert link_row(snapshots, link) == ("synced", 0, None)
    assert git_failures(snapshots, link) == 0
    assert snapshots.received().requests == []
    assert "the repository has no branch, so nothing is sent" in caplog.text
    assert snapshot_row(snapshots, repository) is None
    upstream.path = upstream.path.with_name("renamed")
    upstream.commit({"a": "1\n"})
    run_job(snapshots, link)
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


PASSWORD = "hunter2"
CLONES = ".docora-ops/clones"
REPOSITORY_LOCK = RepositoryLock(Redis(), "octo/api")


def git_for(url: str, *protocols: str) -> Git:
    allowed = ",".join(protocols)
    return Git(url, token=None, protocols=allowed, timeout=1, keep_alive=lambda: None)


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
            Clone(tmp_path, owner, name, git, REPOSITORY_LOCK)
    outside = tmp_path / "outside"
    (outside / "api").mkdir(parents=True)
    for number, where in enumerate(("octo", "octo/api")):
        path = tmp_path / f"{number}" / CLONES / where
        path.parent.mkdir(parents=True)
        path.symlink_to(outside)
        with pytest.raises(SnapshotError, match="would leave REPOS_BASE_PATH"):
            Clone(tmp_path / f"{number}", "octo", "api", git, REPOSITORY_LOCK)


BOMB = "the commit {} has more than {} paths, or one of more than 4,096 bytes"


def commit_bomb(upstream: Upstream, levels: int, width: int = 10) -> str:
    """Commits trees of trees: width ** levels files, and the folders, of a few bytes on disk."""
    blob = upstream.git_of_bytes("hash-object", "-w", "--stdin", stdin=b"x").decode().strip()
    entry = f"100644 blob {blob}"
    for _ in range(levels):
        tree = "".join(f"{entry}\t{number}\n" for number in range(width)).encode()
        entry = f"040000 tree {upstream.git_of_bytes('mktree', stdin=tree).decode().strip()}"
    commit = upstream.git("commit-tree", entry.split()[2], "-m", "bomb").strip()
    upstream.git("update-ref", "refs/heads/main", commit)
    return commit


@pytest.mark.slow
def test_a_bomb_of_trees_fails_the_link_and_opens_the_circuit(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_MOST_PATHS", 2000)
    link, upstream = snapshots.add_link({"a": "1\n"})
    before = upstream.head
    run_job(snapshots, link)
    bomb = commit_bomb(upstream, levels=4, width=7)
    for number in range(1, 6):
        assert repository_row(snapshots, link.repository_id)["open_for"] is None
        assert events(snapshots) == [("create", "a")]
        assert failure(snapshots, link) == BOMB.format(bomb, "2,000")
        assert git_failures(snapshots, link) == number
    open_for = repository_row(snapshots, link.repository_id)["open_for"]
    assert timedelta(minutes=29) < open_for <= timedelta(minutes=30)
    assert events(snapshots) == [("create", "a"), ("sync_failed", "")]
    upstream.git("update-ref", "refs/heads/main", before)
    run_job(snapshots, link)
    assert git_failures(snapshots, link) == 0
    assert repository_row(snapshots, link.repository_id)["open_for"] is None
    assert_in_sync(snapshots, link, upstream)
