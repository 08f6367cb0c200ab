"""Clones that were spoilt: the next job sees to it, and the app gets the right bytes."""

import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from docora_ops.errors import SnapshotError
from tests.support.delivery_checks import assert_in_sync
from tests.support.rows import TestLink
from tests.support.snapshots import Files, Snapshots, Upstream

FILES: Files = {
    "README.md": "hello\n" * 100,
    "src/a.py": "x = 1\n",
    "src/b.bin": bytes(range(256)) * 50,
}
SCAN = "docora-ops-scan"


def assert_sent_in_full(snapshots: Snapshots, link: TestLink, upstream: Upstream) -> None:
    """Run the job of an app that has nothing, and once more if need be; it gets all."""
    try:
        snapshots.run_job(link)
    except SnapshotError as error:
        if "is broken at object" not in error.message:
            raise
        snapshots.run_job(link)
    assert_in_sync(snapshots, link, upstream)
    workshop = snapshots.repos / ".docora-ops"
    assert [path.name for path in workshop.iterdir()] == ["clones"]


def forget(snapshots: Snapshots) -> None:
    """The app has nothing, and is recorded to have nothing."""
    snapshots.docora.connection.execute("DELETE FROM app_delivered_files")
    snapshots.received().files.clear()


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
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_clone_that_is_damaged_is_replaced(
    snapshots: Snapshots, damage: Callable[[Path], object]
) -> None:
    link, upstream = snapshots.add_synced(FILES)
    clone = snapshots.clone()
    for has_news in (False, True):
        (clone / SCAN).unlink(missing_ok=not has_news)
        forget(snapshots)
        damage(clone)
        if has_news:
            upstream.commit({"README.md": "news\n"})
        assert_sent_in_full(snapshots, link, upstream)


def test_a_scan_that_is_garbage_is_made_anew(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_synced(FILES)
    for scan in (b"", b"\0" * 2000, b'[4, "0", 1]', b'[4, "0"'):
        forget(snapshots)
        (snapshots.clone() / SCAN).write_bytes(scan)
        assert_sent_in_full(snapshots, link, upstream)


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
    snapshots.run_job(link)
    assert snapshots.received().files == upstream.contents()
    assert state() == before
    assert sorted(path.name for path in snapshots.repos.iterdir()) == [".docora-ops", "octo"]
