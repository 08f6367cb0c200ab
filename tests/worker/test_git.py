"""Following a repository, whatever its authors do to it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from docora_ops.errors import GitError, SnapshotError
from docora_ops.worker.clone import Clone
from docora_ops.worker.git import Git
from docora_ops.worker.objects import Objects
from tests.rows import TestLink
from tests.snapshots import Snapshots, Upstream


def clone_of(snapshots: Snapshots, full_name: str = "octo/api") -> Path:
    return snapshots.repos / full_name


def git_in(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def fail(snapshots: Snapshots, link: TestLink) -> str:
    """Run the job, which must fail; returns what the link is told of it."""
    with pytest.raises(SnapshotError):
        snapshots.run_job(link)
    row = snapshots.docora.row(link)
    assert row["status"] == "failed"
    return str(row["last_error"])


def assert_synced(snapshots: Snapshots, link: TestLink, upstream: Upstream) -> None:
    """Rows and receiver say what the repository's head holds."""
    row = snapshots.docora.row(link)
    assert (row["status"], row["retry_count"], row["last_error"]) == ("synced", 0, None)
    assert snapshots.received().files == upstream.contents()
    assert set(snapshots.deliveries(link)) == set(upstream.contents())
    assert snapshots.deliveries(link) == snapshots.snapshot_files(link.repository_id)


def branch_of(snapshots: Snapshots, link: TestLink) -> tuple[str, str]:
    row = snapshots.docora.connection.execute(
        "SELECT commit_sha, branch FROM repository_snapshots WHERE repository_id = %s",
        (link.repository_id,),
    ).fetchone()
    assert row is not None
    return row["commit_sha"], row["branch"]


def git_failures(snapshots: Snapshots, link: TestLink) -> int:
    row = snapshots.docora.connection.execute(
        "SELECT consecutive_failures FROM repositories WHERE repository_id = %s",
        (link.repository_id,),
    ).fetchone()
    assert row is not None
    return int(row["consecutive_failures"])


def events(snapshots: Snapshots) -> list[tuple[str, str]]:
    return [(request.event, request.path) for request in snapshots.received().requests]


def test_the_clone_is_bare_and_holds_one_commit(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    upstream.commit({"a": "2\n"})
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    clone = clone_of(snapshots)
    assert git_in(clone, "rev-parse", "--is-bare-repository") == "true"
    assert git_in(clone, "rev-list", "--count", "--all") == "1"
    assert (clone / "shallow").read_text().split() == [upstream.head]


def test_a_second_run_without_a_change_fetches_hashes_and_sends_nothing(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "b": "2\n"})
    asked: list[bytes] = []
    commands: list[str] = []
    ask, run = Objects.ask, Git.run

    def noted_ask(self: Objects, object_id: bytes) -> None:
        asked.append(object_id)
        ask(self, object_id)

    def noted_run(self: Git, arguments: list[str], *rest: object, **options: object) -> str:
        commands.append(arguments[0])
        return run(self, arguments, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Objects, "ask", noted_ask)
    monkeypatch.setattr(Git, "run", noted_run)
    snapshots.run_job(link)
    assert "fetch" in commands
    assert len(asked) == 4  # two are hashed, two are sent
    asked.clear()
    commands.clear()
    snapshots.run_job(link)
    assert (asked, "fetch" in commands) == ([], False)
    upstream.commit({"b": "3\n"})
    snapshots.run_job(link)
    assert (len(asked), "fetch" in commands) == (2, True)
    assert_synced(snapshots, link, upstream)
    assert events(snapshots) == [("create", "a"), ("create", "b"), ("update", "b")]


def test_the_default_branch_is_followed_whatever_its_name(snapshots: Snapshots) -> None:
    upstream = snapshots.add_upstream(branch="release/2.x")
    upstream.commit({"a": "1\n"})
    link = snapshots.link(snapshots.add_app(), snapshots.add_repository(upstream))
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    assert branch_of(snapshots, link) == (upstream.head, "release/2.x")


def test_a_renamed_default_branch_is_followed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    snapshots.run_job(link)
    upstream.git("branch", "--move", "trunk")
    upstream.commit({"b": "2\n"})
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    assert branch_of(snapshots, link) == (upstream.head, "trunk")


def test_another_default_branch_with_another_history_is_followed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "both": "1\n"})
    snapshots.run_job(link)
    upstream.git("checkout", "--quiet", "--orphan", "next")
    upstream.commit({"a": None, "both": "2\n"})
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    assert events(snapshots)[2:] == [("delete", "a"), ("update", "both")]


def test_a_branch_without_a_name_is_followed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    upstream.git("checkout", "--quiet", "--detach")
    upstream.commit({"a": "2\n"})
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)


def test_rewritten_history_is_followed_when_the_old_commits_are_gone(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "b": "1\n"})
    upstream.commit({"a": "2\n"})
    snapshots.run_job(link)
    upstream.commit({"a": "3\n", "b": None})
    upstream.git("checkout", "--quiet", "--orphan", "rewritten")
    upstream.git("commit", "--quiet", "--message=all anew")
    upstream.git("branch", "--delete", "--force", "main")
    upstream.git("branch", "--move", "main")
    upstream.git("reflog", "expire", "--expire=now", "--all")
    upstream.git("gc", "--quiet", "--prune=now")
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    assert branch_of(snapshots, link) == (upstream.head, "main")
    assert events(snapshots)[2:] == [("delete", "b"), ("update", "a")]


def test_a_branch_that_is_set_back_is_followed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    upstream.commit({"a": "2\n", "b": "2\n"})
    snapshots.run_job(link)
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)


def test_an_empty_repository_is_in_sync_and_later_gets_its_files(snapshots: Snapshots) -> None:
    upstream = snapshots.add_upstream()
    link = snapshots.link(snapshots.add_app(), snapshots.add_repository(upstream))
    snapshots.run_job(link)
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().requests == []
    assert git_failures(snapshots, link) == 0
    upstream.commit({"a": "1\n"})
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)


def test_a_repository_that_was_made_anew_without_a_commit_takes_its_files_away(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.run_job(link)
    shutil.rmtree(upstream.path)
    Upstream(upstream.path)
    snapshots.run_job(link)
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().files == {}
    assert events(snapshots)[2:] == [("delete", "a"), ("delete", "b")]
    assert snapshots.deliveries(link) == snapshots.snapshot_files(link.repository_id) == {}


def test_a_repository_that_is_gone_is_a_git_failure_and_nothing_is_deleted(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    snapshots.run_job(link)
    contents = upstream.contents()
    shutil.rmtree(upstream.path)
    error = fail(snapshots, link)
    assert "does not appear to be a git repository" in error
    assert git_failures(snapshots, link) == 1
    assert snapshots.received().files == contents
    assert set(snapshots.deliveries(link)) == set(contents)


def test_a_default_branch_that_does_not_exist_is_a_git_failure_and_nothing_is_deleted(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    snapshots.run_job(link)
    upstream.git("symbolic-ref", "HEAD", "refs/heads/nowhere")
    assert "default branch" in fail(snapshots, link)
    assert git_failures(snapshots, link) == 1
    assert list(snapshots.received().files) == ["a"]


def test_a_success_forgets_earlier_git_failures(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    upstream.path.rename(upstream.path.with_name("elsewhere"))
    fail(snapshots, link)
    fail(snapshots, link)
    assert git_failures(snapshots, link) == 2
    upstream.path.with_name("elsewhere").rename(upstream.path)
    snapshots.run_job(link)
    assert git_failures(snapshots, link) == 0


def test_hooks_in_the_clone_are_not_run(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    snapshots.run_job(link)
    marker = snapshots.folder / "marker"
    hook = clone_of(snapshots) / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    upstream.commit({"a": "2\n"})
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    assert not marker.exists()
    # It works, for whoever lets it.
    git_in(clone_of(snapshots), "update-ref", "refs/other", upstream.head)
    assert marker.exists()


def test_submodules_are_left_alone(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    other = snapshots.add_upstream("octo/other")
    other.commit({"inner": "x\n"})
    upstream.git(
        "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other.url, "sub"
    )
    upstream.commit()
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    assert sorted(snapshots.received().files) == [".gitmodules", "a"]
    assert not (clone_of(snapshots) / "modules").exists()


def test_a_clone_of_docoras_own_worker_is_replaced(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    clone = clone_of(snapshots)
    clone.parent.mkdir(parents=True)
    options = ("--quiet", "--depth", "1", "--single-branch")
    upstream.git("clone", *options, upstream.url, str(clone))
    assert (clone / "a").exists()
    upstream.commit({"b": "2\n"})
    snapshots.run_job(link)
    assert_synced(snapshots, link, upstream)
    assert (clone / "HEAD").exists()
    assert not (clone / ".git").exists()
    assert not list((snapshots.repos / ".docora-ops").iterdir())


def test_two_repositories_of_one_name_have_clones_of_their_own(snapshots: Snapshots) -> None:
    links = {}
    for full_name in ("octo/api", "other/api"):
        upstream = snapshots.add_upstream(full_name)
        upstream.commit({"who": f"{full_name}\n"})
        repository = snapshots.add_repository(upstream, full_name)
        links[full_name] = snapshots.link(
            snapshots.add_app(full_name.partition("/")[0]), repository
        )
    for link in links.values():
        snapshots.run_job(link)
    assert snapshots.received("octo").files == {"who": b"octo/api\n"}
    assert snapshots.received("other").files == {"who": b"other/api\n"}


def test_what_git_says_is_told_in_short(snapshots: Snapshots) -> None:
    upstream = snapshots.add_upstream()
    upstream.commit({"a": "1\n"})
    clone = Clone(
        snapshots.repos, "octo", "api", upstream.url, token=None, protocols=["file"], timeout=60
    )
    assert clone.sync(lambda: None).sha == upstream.head
    shutil.rmtree(upstream.path)
    with pytest.raises(GitError) as caught:
        clone.sync(lambda: None)
    assert caught.value.message.startswith("fatal: ")
    assert "\n" not in caught.value.message
