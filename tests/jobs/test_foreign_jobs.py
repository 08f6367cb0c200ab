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
    """Makes a file in whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.mark.parametrize("is_waiting", [True, False])
def test_no_change_unpickles_what_it_finds(
    docora: Docora, tmp_path: Path, is_waiting: bool
) -> None:
    link, actions = docora.add_link(), docora.actions()
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()
    changes: list[Callable[[], object]] = [
        lambda: actions.retry(link, dry_run=True),
        lambda: actions.retry(link),
        actions.retry_all,
        lambda: actions.resync(link),
        actions.repair,
    ]
    for change in changes:
        docora.redis.flushdb()
        docora.set_link(link, status="failed")
        if is_waiting:
            docora.enqueue(link.job_id)
        else:
            docora.leave_job(link.job_id, JobStatus.FAILED)
        fields = {"data": zlib.compress(trap), "meta": trap, "result": trap}
        docora.redis.hset(Job.key_for(link.job_id), mapping=cast("Any", fields))
        sprung.unlink(missing_ok=True)
        change()
        assert not sprung.exists()
