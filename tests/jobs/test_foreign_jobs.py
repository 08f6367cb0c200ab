"""What others have written into Redis is looked at and never run."""

import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus

from tests.support.docora import Docora


class Trap:
    """Runs a command in whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    return tmp_path / "sprung"


def set_trap(docora: Docora, job_id: str, sprung: Path) -> None:
    """Has whoever unpickles a field of the job make the file `sprung`."""
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()
    sprung.unlink()
    fields = {"data": zlib.compress(trap), "meta": trap, "result": trap}
    docora.redis.hset(Job.key_for(job_id), mapping=cast("Any", fields))


@pytest.mark.parametrize("is_waiting", [True, False])
def test_no_change_unpickles_what_it_finds(docora: Docora, sprung: Path, is_waiting: bool) -> None:
    link, actions = docora.add_link(), docora.actions()
    changes: list[Callable[[], object]] = [
        lambda: actions.retry(link, dry_run=True),
        lambda: actions.retry_all(dry_run=True),
        lambda: actions.retry(link),
        actions.retry_all,
        lambda: actions.resync(link),
        lambda: actions.resync_all(link.app_id),
        actions.repair,
    ]
    for change in changes:
        docora.redis.flushdb()
        docora.set_link(link, status="failed")
        if is_waiting:
            docora.enqueue(link.job_id)
        else:
            docora.leave_job(link.job_id, JobStatus.FAILED)
        set_trap(docora, link.job_id, sprung)
        change()
        assert not sprung.exists()
