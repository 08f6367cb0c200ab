"""Our clones and those of Docora's own worker stand in folders of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

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
    assert (snapshots.repos / ".docora-ops/clones/octo/api/docora-ops-clone").exists()


def test_the_topic_removes_the_clones_of_former_versions_and_nothing_else(
    snapshots: Snapshots, repository_root: Path
) -> None:
    topic = (repository_root / "docora_ops/help/workers.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^find .*\n(?: +.*\n)+", topic, re.MULTILINE)
    # Docora's own clone of a repository with a file that is called like ours.
    link, upstream = snapshots.add_link({"docora-ops-clone": "1\n", "HEAD": "x\n", "objects/x": ""})
    snapshots.run_job(link)
    docoras = snapshots.repos / "octo/api"
    docoras.parent.mkdir(parents=True)
    upstream.git("clone", "--quiet", upstream.url, str(docoras))
    upstream.git("clone", "--quiet", "--bare", upstream.url, str(docoras.with_name("theirs")))
    half = snapshots.repos / ".docora-ops/0123456789abcdef-half"
    ours = snapshots.repos / ".docora-ops/clones/octo/api"
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
