"""Following a repository, whatever its authors do to it, and clones that were spoilt."""

import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from docora_ops.errors import SnapshotError
from docora_ops.worker import git
from tests.support.snapshots import Files, Snapshots, Upstream
from tests.worker.jobs import (
    add_synced,
    assert_in_sync,
    events,
    failure,
    git_failures,
    run_job,
    snapshot_row,
)

COMMANDS = ("ls-remote", "fetch", "cat-file")


def test_one_commit_is_fetched_and_a_second_run_without_a_change_does_nothing(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    upstream.commit({"b": "2\n"})
    commands: list[str] = []
    start = git._start

    def note(arguments: list[str], **options: Any) -> Any:
        commands.extend(each for each in COMMANDS if each in arguments)
        return start(arguments, **options)

    monkeypatch.setattr(git, "_start", note)
    run_job(snapshots, link)
    assert (snapshots.clone() / "shallow").read_text().split() == [upstream.head]
    assert set(commands) == set(COMMANDS)
    commands.clear()
    run_job(snapshots, link)
    assert commands == ["ls-remote"]
    upstream.commit({"b": "3\n"})
    run_job(snapshots, link)
    assert_in_sync(snapshots, link, upstream)
    assert events(snapshots) == [("create", "a"), ("create", "b"), ("update", "b")]


def test_main_is_delivered_or_else_the_default_branch_whatever_is_made_of_it(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n", "both": "1\n"})
    main = upstream.head
    upstream.git("checkout", "--quiet", "-b", "develop")
    upstream.commit({"a": "2\n", "new": "2\n"})
    run_job(snapshots, link)
    assert snapshots.received().files == {"a": b"1\n", "both": b"1\n"}
    row = snapshot_row(snapshots, link.repository_id)
    assert row is not None
    assert (row["commit_sha"], row["branch"]) == (main, "main")
    # Another default branch with another history, and none that has a name.
    for step, branch in (("--orphan next", "next"), ("--detach", "HEAD")):
        upstream.git("checkout", *step.split())
        upstream.git("branch", "--delete", "--force", row["branch"])
        upstream.commit({"a": None, "both": "2\n"} if branch == "next" else {"a": "3\n"})
        run_job(snapshots, link)
        assert_in_sync(snapshots, link, upstream)
        row = snapshot_row(snapshots, link.repository_id)
        assert row is not None
        assert row["branch"] == branch


@pytest.mark.parametrize("left", ["app_delivered_files", "repository_snapshots"])
def test_a_repository_that_shows_no_branch_any_more_is_a_git_failure_and_nothing_is_deleted(
    snapshots: Snapshots, left: str
) -> None:
    link, upstream = add_synced(snapshots, {"a": "1\n", "b": "2\n"})
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


def test_without_its_default_branch_nothing_is_deleted_and_git_fails(snapshots: Snapshots) -> None:
    link, upstream = add_synced(snapshots, {"a": "1\n"})
    upstream.git("branch", "--move", "trunk/2.x")
    upstream.git("symbolic-ref", "HEAD", "refs/heads/nowhere")
    assert "its default branch does not exist" in failure(snapshots, link)
    assert git_failures(snapshots, link) == 1
    assert list(snapshots.received().files) == ["a"]


FILES: Files = {
    "README.md": "hello\n" * 100,
    "src/a.py": "x = 1\n",
    "src/b.bin": bytes(range(256)) * 50,
}
SCAN = "docora-ops-scan"


def remove_packs(clone: Path) -> None:
    subprocess.run(["git", "repack", "-a", "-d", "--quiet"], cwd=clone, check=True)
    shutil.rmtree(clone / "objects/pack")


def empty_blobs(clone: Path) -> None:
    """Commit and trees stay, so that only who reads a file sees it."""
    listing = subprocess.run(
        ["git", "ls-tree", "-r", "refs/docora-ops/head"], cwd=clone, check=True, capture_output=True
    ).stdout.decode()
    for line in listing.splitlines():
        object_id = line.split()[2]
        path = clone / "objects" / object_id[:2] / object_id[2:]
        path.chmod(0o644)
        path.write_bytes(b"")


def leave_half_a_clone(clone: Path) -> None:
    """What a killed job of this repository leaves."""
    shutil.rmtree(clone)
    half = clone.parents[2] / f"{sha256(b'octo/api').hexdigest()[:16]}-new"
    (half / "objects/pack").mkdir(parents=True)
    (half / "objects/pack/tmp_pack_x").write_bytes(b"PACK" * 100)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no packs": remove_packs,
    "empty blobs": empty_blobs,
    "spoilt config": lambda clone: (clone / "config").write_text("[core\n"),
    "half a clone": leave_half_a_clone,
    "half a scan": lambda clone: (clone / SCAN).write_bytes(b'[5, "0"'),
    "no scan": lambda clone: (clone / SCAN).write_bytes(b'[5, "0", 1]'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_broken_clone_is_replaced(snapshots: Snapshots, damage: Callable[[Path], object]) -> None:
    link, upstream = add_synced(snapshots, FILES)
    clone = snapshots.clone()
    for has_news in (False, True):
        # The app has nothing, and is recorded to have nothing.
        snapshots.docora.connection.execute("DELETE FROM app_delivered_files")
        snapshots.received().files.clear()
        (clone / SCAN).unlink(missing_ok=not has_news)
        damage(clone)
        if has_news:
            upstream.commit({"README.md": "news\n"})
        try:
            run_job(snapshots, link)
        except SnapshotError as error:
            assert "is broken at" in error.message  # noqa: PT017
            run_job(snapshots, link)
        assert_in_sync(snapshots, link, upstream)
        assert [path.name for path in clone.parents[2].iterdir()] == ["clones"]


def test_clones_of_docoras_own_worker_are_neither_used_nor_changed(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    docoras = snapshots.repos / "octo/api"
    docoras.parent.mkdir(parents=True)
    upstream.git("clone", "--quiet", "--depth", "1", upstream.url, str(docoras))

    def state() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in docoras.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mode, path.read_bytes()) for path in files}

    before = state()
    upstream.commit({"b": "2\n"})
    run_job(snapshots, link)
    assert snapshots.received().files == upstream.contents()
    assert state() == before
    assert sorted(path.name for path in snapshots.repos.iterdir()) == [".docora-ops", "octo"]
