"""What others have written into Redis is looked at and never run."""

import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus

from docora_ops.queue.job_template import calls_for_link
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
    orphan = TestLink(f"app_{1:024x}", f"repo_{1:024x}")
    for job_id in (orphan.job_id, "job-of-somebody"):
        docora.enqueue(job_id)
        set_trap(docora, job_id, sprung)
    actions = docora.actions()
    assert actions.drift().total == 0
    assert actions.repair().total == 0
    assert len(docora.waiting()) == 2
    assert not sprung.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x80\x05",
        zlib.compress(b""),
        zlib.compress(b"x" * 100)[:-4],
        b"x\x9c" + bytes(50),
        "Größe".encode(),
        bytes(range(256)),
    ],
    ids=ascii,
)
def test_what_is_no_call_names_no_link(data: bytes) -> None:
    assert calls_for_link(data, "f", "app_1-repo_1") is False


LINK = TestLink("app_1", "repo_1")


def call(function: str = "f", app_id: str = "app_1", repository_id: str = "repo_1") -> bytes:
    arguments = {"app_id": app_id, "owner": "o", "repository_id": repository_id}
    return pickle.dumps((function, None, (), arguments), protocol=pickle.HIGHEST_PROTOCOL)


@pytest.mark.parametrize("pack", [zlib.compress, bytes])
def test_a_call_is_known_by_its_function_and_both_ids(pack: Callable[[bytes], bytes]) -> None:
    def is_for_link(data: bytes) -> bool:
        return calls_for_link(pack(data), "f", LINK.job_id)

    assert is_for_link(call()) is True
    assert is_for_link(call(function="g")) is False
    assert is_for_link(call(app_id="app_2")) is False
    assert is_for_link(call(app_id="app_1x")) is False
    assert is_for_link(call(repository_id="repo_")) is False


def test_a_job_that_swells_when_unpacked_costs_little() -> None:
    assert calls_for_link(zlib.compress(bytes(200_000_000)), "f", LINK.job_id) is False
