"""Our clones stand in folders of their own, which only the worker's own user may read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.snapshots import Snapshots


def state_of(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Mode and content of all below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in folder.rglob("*")
    }


def test_clones_of_docoras_own_worker_are_neither_used_nor_changed(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    docoras = snapshots.repos / "octo/api"
    docoras.parent.mkdir(parents=True)
    upstream.git("clone", "--quiet", "--depth", "1", upstream.url, str(docoras))
    before = state_of(docoras.parent)
    upstream.commit({"b": "2\n"})
    snapshots.run_job(link)
    assert snapshots.received().files == upstream.contents()
    assert state_of(docoras.parent) == before
    assert sorted(path.name for path in snapshots.repos.iterdir()) == [".docora-ops", "octo"]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(snapshots: Snapshots) -> list[str]:
    """All that other users may read, write or enter below REPOS_BASE_PATH."""
    paths = list(snapshots.repos.rglob("*"))
    assert any(path.name == "docora-ops-scan" for path in paths)
    return [str(path) for path in paths if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("mask", [0, 0o022])
def test_clones_and_scans_are_for_their_owner_alone_whatever_the_umask(
    snapshots: Snapshots, mask: int
) -> None:
    link, upstream = snapshots.add_link({"secret": "1\n"})
    with umask(mask):
        snapshots.repos.mkdir(mode=0o755)
        snapshots.run_job(link)
        assert open_to_others(snapshots) == []
        upstream.commit({"secret": "2\n"})
        snapshots.run_job(link)
    assert open_to_others(snapshots) == []
    assert snapshots.repos.stat().st_mode & 0o777 == 0o755 & ~mask
