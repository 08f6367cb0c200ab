"""Our clones stand in folders of their own, which only the worker's own user may read."""

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


def test_clones_of_docoras_own_worker_are_neither_used_nor_changed(snapshots: Snapshots) -> None:
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
