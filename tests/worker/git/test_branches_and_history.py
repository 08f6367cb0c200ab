"""Following a repository, whatever its authors do to it."""

import logging
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from docora_ops.worker.clone import Objects
from docora_ops.worker.git import Git
from tests.support.delivery_checks import (
    assert_in_sync,
    events,
    failure,
    git_failures,
    snapshot_row,
)
from tests.support.rows import TestLink
from tests.support.snapshots import Files, Snapshots, Upstream


def git_in(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def branch_of(snapshots: Snapshots, link: TestLink) -> tuple[str, str]:
    row = snapshot_row(snapshots, link.repository_id)
    assert row is not None
    return row["commit_sha"], row["branch"]


def test_the_clone_is_bare_and_holds_one_commit(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    upstream.commit({"a": "2\n"})
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    clone = snapshots.clone()
    assert git_in(clone, "rev-parse", "--is-bare-repository") == "true"
    assert git_in(clone, "rev-list", "--count", "--all") == "1"
    assert (clone / "shallow").read_text().split() == [upstream.head]


def test_a_second_run_without_a_change_fetches_hashes_and_sends_nothing(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "b": "2\n"})
    asked: list[str] = []
    commands: list[str] = []
    receive, finish = Objects._receive, Git._finish

    def noted_receive(self: Objects, *arguments: Any) -> Any:
        asked.append(arguments[1])
        return receive(self, *arguments)

    def noted_finish(self: Git, arguments: list[str], *rest: Any) -> Any:
        commands.append(arguments[0])
        return finish(self, arguments, *rest)

    monkeypatch.setattr(Objects, "_receive", noted_receive)
    monkeypatch.setattr(Git, "_finish", noted_finish)
    snapshots.run_job(link)
    assert "fetch" in commands
    assert len(asked) == 5  # the tree; two are hashed, two are sent
    asked.clear()
    commands.clear()
    snapshots.run_job(link)
    assert (asked, commands) == ([], ["ls-remote"])
    upstream.commit({"b": "3\n"})
    snapshots.run_job(link)
    assert (len(asked), "fetch" in commands) == (3, True)
    assert_in_sync(snapshots, link, upstream)
    assert events(snapshots) == [("create", "a"), ("create", "b"), ("update", "b")]


def test_main_is_delivered_though_another_branch_is_the_default(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    upstream.git("checkout", "--quiet", "-b", "develop")
    upstream.commit({"a": "2\n", "new": "2\n"})
    with caplog.at_level(logging.INFO):
        snapshots.run_job(link)
    assert snapshots.received().files == {"a": b"1\n"}
    main = upstream.git("rev-parse", "main").strip()
    assert branch_of(snapshots, link) == (main, "main")
    assert f"main at {main[:12]}" in caplog.text


@pytest.mark.parametrize(
    ("steps", "branch"),
    [
        pytest.param(
            ["checkout --orphan next", {"a": None, "both": "2\n"}, "branch --delete --force main"],
            "next",
            id="another default branch with another history",
        ),
        pytest.param(
            ["checkout --detach", "branch --delete --force main", {"a": "2\n"}],
            None,
            id="without a name",
        ),
        pytest.param(
            [
                "checkout --orphan rewritten",
                {"both": "3\n", "a": None},
                "branch --delete --force main",
                "branch --move main",
                "reflog expire --expire=now --all",
                "gc --quiet --prune=now",
            ],
            "main",
            id="rewritten, the old commits are gone",
        ),
    ],
)
def test_the_branch_is_followed_whatever_is_made_of_it(
    snapshots: Snapshots, steps: list[str | Files], branch: str | None
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "both": "1\n"})
    upstream.commit({"a": "2\n", "c": "2\n"})
    snapshots.run_job(link)
    for step in steps:
        upstream.git(*step.split()) if isinstance(step, str) else upstream.commit(step)
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    if branch:
        assert branch_of(snapshots, link) == (upstream.head, branch)


def test_an_empty_repository_is_in_sync_and_later_gets_its_files(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = snapshots.add_upstream()
    link = snapshots.link(snapshots.add_app(), snapshots.add_repository(upstream))
    snapshots.run_job(link)
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().requests == []
    assert git_failures(snapshots, link) == 0
    assert "the repository has no branch, so nothing is sent" in caplog.text
    assert snapshot_row(snapshots, link.repository_id) is None
    upstream.commit({"a": "1\n"})
    snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.parametrize("left", ["app_delivered_files", "repository_snapshots"])
def test_a_repository_that_shows_no_branch_any_more_is_a_git_failure_and_nothing_is_deleted(
    snapshots: Snapshots, left: str
) -> None:
    link, upstream = snapshots.add_synced({"a": "1\n", "b": "2\n"})
    other = snapshots.link(snapshots.add_app("Other"), link.repository_id)
    rows = {"app_delivered_files", "repository_snapshots"} - {left}
    snapshots.docora.connection.execute(f"DELETE FROM {rows.pop()}".encode())
    before = snapshots.docora.dump()[0]
    contents = upstream.contents()
    shutil.rmtree(upstream.path)
    Upstream(upstream.path)
    for number, each in enumerate((link, other), start=1):
        assert "shows no branch, though it was delivered before" in failure(snapshots, each)
        assert git_failures(snapshots, link) == number
    assert len(events(snapshots)) == 2
    assert snapshots.received().files == contents
    after = snapshots.docora.dump()[0]
    for table in ("app_delivered_files", "repository_snapshots", "snapshot_files"):
        assert after[table] == before[table]


def test_a_default_branch_that_does_not_exist_is_a_git_failure_and_nothing_is_deleted(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_synced({"a": "1\n"})
    upstream.git("branch", "--move", "trunk/2.x")
    upstream.git("symbolic-ref", "HEAD", "refs/heads/nowhere")
    assert "its default branch does not exist" in failure(snapshots, link)
    assert git_failures(snapshots, link) == 1
    assert list(snapshots.received().files) == ["a"]
