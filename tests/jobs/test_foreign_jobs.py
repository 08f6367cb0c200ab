"""What others have written into Redis is looked at and never run."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from rq.job import Job, JobStatus

from docora_ops.errors import InvalidJobIdError
from docora_ops.queue.job_template import names_link
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink


class Trap:
    """Runs a command in whoever unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


COMMANDS: dict[str, Callable[[Actions, TestLink], object]] = {
    "retry": lambda actions, link: actions.retry(link),
    "dry run of a retry": lambda actions, link: actions.retry(link, dry_run=True),
    "retry all": lambda actions, link: actions.retry_all(),
    "dry run of a retry of all": lambda actions, link: actions.retry_all(dry_run=True),
    "resync": lambda actions, link: actions.resync(link),
    "resync all": lambda actions, link: actions.resync_all(link.app_id),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.FAILED])
def test_no_command_unpickles_what_it_finds(
    docora: Docora,
    tmp_path: Path,
    status: JobStatus,
    command: Callable[[Actions, TestLink], object],
) -> None:
    link = docora.link(docora.add_app("One", "a-b"), docora.add_repository("octo/one", "c"))
    # Shares its job id with the link, which is why the job is looked into.
    docora.link(docora.add_app("Two", "a"), docora.add_repository("octo/two", "b-c"), "synced")
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()
    sprung.unlink()
    if status is JobStatus.QUEUED:
        docora.enqueue(link.job_id)
    else:
        docora.leave_job(link.job_id, status)
    key = Job.key_for(link.job_id)
    docora.redis.hset(key, mapping={"data": zlib.compress(trap), "meta": trap, "result": trap})
    with suppress(InvalidJobIdError):  # a refusal is as good
        command(docora.actions(), link)
    assert not sprung.exists()


def test_a_look_for_drift_unpickles_nothing(docora: Docora, tmp_path: Path) -> None:
    orphan = TestLink(f"app_{1:024x}", f"repo_{1:024x}")
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    for job_id in (orphan.job_id, "job-of-somebody"):
        docora.enqueue(job_id)
        docora.redis.hset(
            Job.key_for(job_id), mapping={"data": zlib.compress(trap), "meta": trap, "result": trap}
        )
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
    assert names_link(data, "app_1") is False


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("app_id", ["app_1", "a", "a" * 50, "Größe"])
def test_a_call_names_the_app_that_it_is_made_for_and_no_other(
    app_id: str, compressed: bool
) -> None:
    call = pickle.dumps(("f", None, (), {"app_id": app_id, "is_rescan": True}), protocol=5)
    data = zlib.compress(call) if compressed else call
    assert names_link(data, app_id) is True
    assert names_link(data, app_id + "x") is False
    assert names_link(data, app_id[:-1] or "b") is False


def test_a_job_that_swells_when_unpacked_costs_little() -> None:
    assert names_link(zlib.compress(bytes(200_000_000)), "app_1") is False


@pytest.mark.parametrize(
    ("arguments", "made_for"),
    [
        ({"app_id": "a", "owner": "b"}, True),
        ({"app_id": "b", "owner": "a"}, False),
        ({"app_id": "a-b", "owner": "a"}, False),
    ],
)
def test_a_job_is_known_by_its_app_id_alone(arguments: dict[str, str], made_for: bool) -> None:
    call = pickle.dumps(("f", None, (), arguments), protocol=pickle.HIGHEST_PROTOCOL)
    assert names_link(zlib.compress(call), "a") is made_for
