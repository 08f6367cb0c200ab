"""Our clones stand in folders of their own, which only the worker's own user may read."""

import os
import re
import shutil
import subprocess
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


def test_clones_of_docoras_own_worker_and_of_former_versions_are_neither_used_nor_changed(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    docoras = snapshots.repos / "octo/api"
    docoras.parent.mkdir(parents=True)
    upstream.git("clone", "--quiet", "--depth", "1", upstream.url, str(docoras))
    upstream.git("clone", "--quiet", "--bare", upstream.url, str(docoras.with_name("former")))
    before = state_of(docoras.parent)
    upstream.commit({"b": "2\n"})
    snapshots.run_job(link)
    assert snapshots.received().files == upstream.contents()
    assert state_of(docoras.parent) == before
    assert sorted(path.name for path in snapshots.repos.iterdir()) == [".docora-ops", "octo"]
    assert (snapshots.clone() / "docora-ops-clone").exists()


def test_the_topic_removes_the_clones_of_former_versions_and_nothing_else(
    snapshots: Snapshots, repository_root: Path
) -> None:
    topic = (repository_root / "docora_ops/help/workers.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^find .*\n(?: +.*\n)+", topic, re.MULTILINE)
    # Docora's own clone of a repository with a file that is called like ours.
    _link, upstream = snapshots.add_synced(
        {"docora-ops-clone": "1\n", "HEAD": "x\n", "objects/x": ""}
    )
    docoras = snapshots.repos / "octo/api"
    docoras.parent.mkdir(parents=True)
    upstream.git("clone", "--quiet", upstream.url, str(docoras))
    upstream.git("clone", "--quiet", "--bare", upstream.url, str(docoras.with_name("theirs")))
    half = snapshots.repos / ".docora-ops/0123456789abcdef-half"
    ours = snapshots.clone()
    shutil.copytree(ours, half)
    before = state_of(snapshots.repos)
    for name in ("octo/former", "other owner/its name"):
        shutil.copytree(ours, snapshots.repos / name)
    subprocess.run(
        ["sh", "-c", command],
        env={"PATH": os.environ["PATH"], "REPOS_BASE_PATH": str(snapshots.repos)},
        check=True,
    )
    after = state_of(snapshots.repos)
    assert after.pop("other owner")[1] is None
    assert after == before


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
    link, _ = snapshots.add_synced({"secret": "1\n"})
    clone = snapshots.clone()
    folders = (clone, *clone.parents[:3])
    assert folders[-1] == snapshots.repos / ".docora-ops"
    for path in (*folders, clone / "docora-ops-scan"):
        path.chmod(0o755)
    snapshots.run_job(link)
    assert open_to_others(snapshots) == []
