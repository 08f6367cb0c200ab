"""What others have written into Redis is looked at and never run."""

import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus

from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink


class Trap:
    """Runs a command in whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


CHANGES: tuple[Callable[[Actions, TestLink], object], ...] = (
    lambda actions, link: actions.retry(link, dry_run=True),
    lambda actions, _: actions.retry_all(dry_run=True),
    lambda actions, link: actions.retry(link),
    lambda actions, _: actions.retry_all(),
    lambda actions, link: actions.resync(link),
    lambda actions, link: actions.resync_all(link.app_id),
)


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


def test_no_change_unpickles_what_it_finds(docora: Docora, sprung: Path) -> None:
    link, actions = docora.add_link(), docora.actions()
    for change in CHANGES:
        for is_waiting in (True, False):
            docora.redis.flushdb()
            docora.set_link(link, status="failed")
            if is_waiting:
                docora.enqueue(link.job_id)
            else:
                docora.leave_job(link.job_id, JobStatus.FAILED)
            set_trap(docora, link.job_id, sprung)
            change(actions, link)
            assert not sprung.exists()


def test_a_look_for_drift_unpickles_nothing(docora: Docora, sprung: Path) -> None:
    for job_id in (docora.add_link("synced").job_id, "job-of-somebody"):
        docora.enqueue(job_id)
        set_trap(docora, job_id, sprung)
    actions = docora.actions()
    assert actions.drift().total == 0
    assert actions.repair().total == 0
    assert len(docora.waiting()) == 2
    assert not sprung.exists()
