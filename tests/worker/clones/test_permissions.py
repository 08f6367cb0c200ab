"""Clones hold private code: only the worker's own user may read them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.snapshots import Snapshots


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


def test_a_clone_that_others_may_read_is_closed_at_its_next_use(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"secret": "1\n"})
    snapshots.run_job(link)
    clone = snapshots.repos / ".docora-ops/clones/octo/api"
    folders = (clone, *clone.parents[:3])
    assert folders[-1] == snapshots.repos / ".docora-ops"
    for path in (*folders, clone / "docora-ops-scan"):
        path.chmod(0o755)
    snapshots.run_job(link)
    assert open_to_others(snapshots) == []
