"""A job reads as waiting, and stands where no worker takes it: every change replaces it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rq.job import Job, JobStatus
from rq.utils import now, utcformat

from docora_ops.actions import cancel, running_operation
from docora_ops.actions import change as engine
from docora_ops.actions.drift import Suspects
from docora_ops.links import Outcome
from docora_ops.queue import PushRequest
from tests.support.actions import Actions
from tests.support.docora import INTERMEDIATE, Docora
from tests.support.job_states import Arrange
from tests.support.read_only import frozen
from tests.support.rows import TestLink

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def lost(docora: Docora, status: str = "failed") -> TestLink:
    """A link whose job RQ, or a Redis that has lost writes, has left in no list."""
    link = docora.add_link(status)
    docora.leave_job(link.job_id, JobStatus.QUEUED)
    return link


@pytest.mark.parametrize(
    ("words", "status", "outcome"),
    [
        ("retry APP REPO", "pending_snapshot", "replaced_stale"),
        ("retry-all-failed --yes", "pending_snapshot", "replaced_stale"),
        ("retry-all-failed --yes --in-flight 2 --timeout 1", "pending_snapshot", "replaced_stale"),
        ("repair APP REPO --yes", "failed", "queued"),
        ("repair --yes", "failed", "queued"),
    ],
)
def test_a_failed_link_whose_job_stands_nowhere_gets_a_new_one(
    docora: Docora, words: str, status: str, outcome: str
) -> None:
    waiting = docora.add_link()
    docora.enqueue(waiting.job_id)
    link = lost(docora)
    command = words.replace("APP", link.app_id).replace("REPO", link.repository_id).split()
    result = docora.run(*command, "--json", env=AT_ONCE)
    assert result.code in {0, 8}, result
    assert docora.waiting() == [waiting.job_id, link.job_id]
    assert docora.status(link) == status
    assert docora.job(link).kwargs["repository_id"] == link.repository_id
    if "outcome" in result.data:
        assert result.data["outcome"] == outcome
    else:
        assert result.data.get("counts", result.data)[outcome] == 1


def between_looks(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> list[int]:
    """Has something happen between the two looks. Returns the numbers of suspects."""
    suspects: list[int] = []

    def pause(count: int, _: float) -> Iterator[Suspects]:
        suspects.append(count)
        yield Suspects(count)
        happen()
        yield Suspects(count)

    monkeypatch.setattr(engine, "pause_between_looks", pause)
    return suspects


HAPPENINGS: dict[str, Arrange] = {
    "taken": Docora.start_job,
    "in the hands of a worker": lambda docora, id_: docora.redis.rpush(INTERMEDIATE, id_),
    "queued anew": Docora.enqueue,
    "queued anew and taken": lambda docora, id_: docora.redis.hset(
        Job.key_for(id_), "enqueued_at", utcformat(now())
    ),
}


@pytest.mark.parametrize("name", HAPPENINGS)
@pytest.mark.parametrize("change", [Actions.retry, Actions.retry_all])
def test_a_job_that_a_worker_was_just_taking_is_kept(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, change: Callable[..., object], name: str
) -> None:
    link = lost(docora)
    row, actions = docora.row(link), docora.actions(drift_grace=0)

    def meanwhile() -> None:
        # Nothing is changed yet, and no lock is held.
        assert docora.row(link) == row
        assert docora.sessions("state <> 'idle'") == 0
        HAPPENINGS[name](docora, link.job_id)

    suspects = between_looks(monkeypatch, meanwhile)
    change(actions, *([link] if change is Actions.retry else []))
    assert suspects == [1]
    assert docora.waiting() == [link.job_id] * (name == "queued anew")
    assert docora.status(link) == ("failed" if name == "taken" else "pending_snapshot")


@pytest.mark.parametrize("place", ["list", "schedule", "intermediate"])
def test_the_push_looks_once_more_where_the_job_stands(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Also at an entry that was made by hand, without a word in the job itself."""
    link = lost(docora)
    actions = docora.actions(drift_grace=0)
    push = actions.queue.push

    def put_then_push(requests: list[PushRequest], created_at: float, **options: Any) -> object:
        match place if requests[0].disproved else "":
            case "list":
                docora.redis.rpush(docora.queue.key, link.job_id, "other")
            case "schedule":
                docora.redis.zadd("rq:scheduled:snapshot-queue", {link.job_id: 2**31})
            case "intermediate":
                docora.redis.rpush(INTERMEDIATE, link.job_id)
        return push(requests, created_at, **options)

    monkeypatch.setattr(actions.queue, "push", put_then_push)
    assert actions.retry(link).outcome is Outcome.ALREADY_QUEUED
    assert docora.waiting() == ([link.job_id, "other"] if place == "list" else [])
    assert docora.job_hash(link.job_id)["description"] == b"other"


def test_a_bulk_operation_can_be_cancelled(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    link = lost(docora)
    row, actions = docora.row(link), docora.actions(drift_grace=0)

    def cancel_it() -> None:
        cancel(actions.docora, running_operation(actions.docora).operation_id)

    between_looks(monkeypatch, cancel_it)
    result = actions.retry_all()
    assert (result.cancelled, result.completed, result.left) == (True, 0, 1)
    assert docora.row(link) == row


def test_doctor_and_repair_look_at_failed_and_due_links_too(docora: Docora) -> None:
    failed, due = lost(docora), lost(docora, "synced")
    docora.age_links()
    recent = lost(docora, "synced")
    docora.set_link(recent, last_scanned_at=now())
    waiting, none = docora.add_link(), docora.add_link()
    docora.enqueue(waiting.job_id)
    rows = {link: docora.row(link) for link in docora.links()}
    with frozen(docora):
        drift = docora.run("doctor", "--json", env=AT_ONCE).data["drift"]
    assert (drift["total"], drift["counts"]["lost"]) == (2, 2)
    assert {each["job_id"] for each in drift["examples"]} == {failed.job_id, due.job_id}

    result = docora.run("repair", "--yes", "--json", env=AT_ONCE)
    assert (result.code, result.data["by_kind"]["lost"]) == (0, 2), result
    assert result.data["counts"]["queued"] == 2
    assert docora.waiting() == [waiting.job_id, failed.job_id, due.job_id]
    assert {link: docora.row(link) for link in docora.links()} == rows
    assert all(docora.job(link).kwargs["is_rescan"] for link in (failed, due))
    assert not docora.redis.exists(Job.key_for(none.job_id))
    # One that is named is looked at whether or not it is due.
    one = docora.run("repair", *recent.ids, "--yes", "--json", env=AT_ONCE)
    assert one.data["counts"]["queued"] == 1
    assert docora.run("repair", "--yes", "--json", env=AT_ONCE).data["message"] == (
        "Nothing to repair"
    )
