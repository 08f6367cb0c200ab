"""What everybody can see of a bulk operation, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus

from docora_ops.actions import operations
from docora_ops.actions.bulk import run as bulk
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.audit import ChangeNote, HistoryState
from docora_ops.bulk import BulkResult, Progress
from docora_ops.errors import NotFoundError, OperationFinishedError
from docora_ops.links import Outcome
from docora_ops.queue import History
from tests.support.docora import Docora


def progress_hash(docora: Docora, result: BulkResult) -> dict[str, str]:
    fields = cast("dict[bytes, bytes]", docora.redis.hgetall(f"docora:bulk:{result.operation_id}"))
    return {name.decode(): value.decode() for name, value in fields.items()}


# Cancelling and stopping


def test_an_operation_cancelled_in_redis_stops_before_its_next_batch(docora: Docora) -> None:
    docora.add_links(40)
    actions, dashboard = docora.actions(), docora.actions()

    def prepare(run: BulkRun) -> None:
        def step(done: int) -> None:
            if done == 4:
                operations.cancel(dashboard.store, run.operation_id or "")

        run.on_progress = step

    result = actions.retry_all(batch_size=2, prepare=prepare)
    assert result.cancelled is True
    assert result.total == 40
    # What was in hand when the cancellation came is finished.
    assert 4 <= result.completed <= 4 + bulk.BATCHES_IN_FLIGHT * 2
    assert docora.statuses() == {
        "pending_snapshot": result.completed,
        "failed": 40 - result.completed,
    }
    assert progress_hash(docora, result) == {
        "total": "40",
        "completed": str(result.completed),
        "succeeded": str(result.completed),
        "failed": "0",
        "cancelled": "true",
    }
    docora.assert_sound()
    rest = actions.retry_all(batch_size=2)
    assert rest.counts == {Outcome.QUEUED: 40 - result.completed}


def test_an_operation_cancelled_too_late_is_done_in_the_audit_trail_too(docora: Docora) -> None:
    docora.add_links(6)
    actions = docora.actions()

    def prepare(run: BulkRun) -> None:
        def step(done: int) -> None:
            if done == 4:  # the last batch is in hand
                actions.store.cancel(run.operation_id or "")

        run.on_progress = step

    note = ChangeNote("somebody@host", "retry-all-failed", {})
    result = actions.retry_all(batch_size=2, note=note, prepare=prepare)
    assert (result.completed, result.cancelled) == (6, False)
    [entry] = History(docora.settings, actions.redis).read(10)
    assert entry.state is HistoryState.DONE
    assert entry.counts == {"total": 6, Outcome.QUEUED: 6}


def test_an_operation_cancelled_before_its_first_batch_changes_nothing(docora: Docora) -> None:
    docora.add_links(5)
    actions = docora.actions()
    result = actions.retry_all(
        batch_size=1, prepare=lambda run: actions.store.cancel(run.operation_id or "")
    )
    assert result.cancelled is True
    # The runner looks when it reports, which it does after its first batches.
    assert result.completed <= bulk.BATCHES_IN_FLIGHT
    assert docora.statuses()["failed"] == 5 - result.completed
    docora.assert_sound()


def test_a_stop_finishes_what_is_in_hand_and_marks_the_operation_cancelled(
    docora: Docora,
) -> None:
    docora.add_links(40)

    def prepare(run: BulkRun) -> None:
        def step(done: int) -> None:
            run.stop.requested = run.stop.requested or done >= 6

        run.on_progress = step

    result = docora.actions().retry_all(batch_size=3, prepare=prepare)
    assert result.cancelled is True
    assert 6 <= result.completed <= 6 + bulk.BATCHES_IN_FLIGHT * 3
    assert docora.statuses()["pending_snapshot"] == result.completed
    assert progress_hash(docora, result)["cancelled"] == "true"
    assert progress_hash(docora, result)["completed"] == str(result.completed)
    docora.assert_sound()


def test_a_stop_that_comes_before_the_first_batch_changes_nothing(docora: Docora) -> None:
    docora.add_links(5)

    def prepare(run: BulkRun) -> None:
        run.stop.requested = True

    result = docora.actions().retry_all(prepare=prepare)
    assert (result.cancelled, result.completed) == (True, 0)
    assert docora.statuses() == {"failed": 5}
    assert docora.waiting() == []
    assert progress_hash(docora, result)["cancelled"] == "true"


def test_a_stop_ends_the_wait_for_the_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(2)
    for link in docora.links():
        docora.leave_job(link.job_id, JobStatus.QUEUED)
    monkeypatch.setattr(bulk, "SECOND_LOOK_DELAY", 3600)

    def prepare(run: BulkRun) -> None:
        monkeypatch.setattr(
            "docora_ops.actions.bulk.run.time.sleep",
            lambda seconds: setattr(run.stop, "requested", True),
        )

    result = docora.actions().retry_all(prepare=prepare)
    assert (result.cancelled, result.completed) == (True, 0)
    assert docora.statuses() == {"failed": 2}


# Progress


def test_progress_is_as_docoras_dashboard_expects_it(docora: Docora) -> None:
    docora.add_links(5)
    docora.start_job(docora.links()[0].job_id)
    docora.redis.set(Job.key_for(docora.links()[1].job_id), "not a hash")
    result = docora.actions().retry_all(batch_size=2)
    operation_id = result.operation_id or ""
    prefix, _, digits = operation_id.partition("_")
    assert prefix == "bulk"
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")
    assert progress_hash(docora, result) == {
        "total": "5",
        "completed": "5",
        "succeeded": "3",
        "failed": "1",
        "cancelled": "false",
    }
    assert 3590 <= docora.redis.ttl(f"docora:bulk:{operation_id}") <= 3600
    assert operations.progress(docora.actions().store, operation_id) == Progress(
        operation_id, total=5, completed=5, succeeded=3, failed=1, cancelled=False
    )


def test_progress_is_there_before_the_first_link_and_grows_batch_by_batch(docora: Docora) -> None:
    docora.add_links(10)
    actions, dashboard = docora.actions(), docora.actions()
    seen: list[int] = []
    reported: list[int] = []

    def prepare(run: BulkRun) -> None:
        assert operations.progress(dashboard.store, run.operation_id or "") == Progress(
            run.operation_id or "", total=10, completed=0, succeeded=0, failed=0, cancelled=False
        )

        def step(done: int) -> None:
            # Called before Redis is told, so it still shows the batch before.
            seen.append(operations.progress(dashboard.store, run.operation_id or "").completed)
            reported.append(done)

        run.on_progress = step

    actions.retry_all(batch_size=3, prepare=prepare)
    assert reported == [3, 6, 9, 10]
    assert seen == [0, 3, 6, 9]


def test_each_batch_renews_the_life_of_the_progress(docora: Docora) -> None:
    docora.add_links(4)
    lives: list[int] = []

    def prepare(run: BulkRun) -> None:
        key = f"docora:bulk:{run.operation_id}"

        def step(done: int) -> None:
            lives.append(docora.redis.ttl(key))
            docora.redis.expire(key, 5)

        run.on_progress = step

    result = docora.actions().retry_all(batch_size=1, prepare=prepare)
    assert all(life >= 3590 for life in lives)
    assert docora.redis.ttl(f"docora:bulk:{result.operation_id}") >= 3590


def test_progress_is_absolute_whatever_somebody_wrote_into_it(docora: Docora) -> None:
    docora.add_links(4)

    def prepare(run: BulkRun) -> None:
        docora.redis.hset(f"docora:bulk:{run.operation_id}", "completed", "1000")

    result = docora.actions().retry_all(prepare=prepare)
    assert progress_hash(docora, result)["completed"] == "4"


def test_progress_that_has_expired_midway_comes_back(docora: Docora) -> None:
    docora.add_links(6)

    def prepare(run: BulkRun) -> None:
        run.on_progress = lambda done: cast(
            "None", docora.redis.delete(f"docora:bulk:{run.operation_id}")
        )

    result = docora.actions().retry_all(batch_size=2, prepare=prepare)
    assert progress_hash(docora, result) == {
        "total": "6",
        "completed": "6",
        "succeeded": "6",
        "failed": "0",
        "cancelled": "false",
    }


def test_an_unknown_operation_is_not_found_and_not_created(docora: Docora) -> None:
    store = docora.actions().store
    for ask in (operations.progress, operations.cancel):
        with pytest.raises(NotFoundError, match="Operation not found or expired"):
            cast("Callable[[Any, str], object]", ask)(store, "bulk_0123456789abcdef")
    assert docora.redis.keys() == []


def test_an_operation_that_has_finished_cannot_be_cancelled(docora: Docora) -> None:
    docora.add_links(1)
    actions = docora.actions()
    result = actions.retry_all()
    with pytest.raises(OperationFinishedError):
        operations.cancel(actions.store, result.operation_id or "")
    assert progress_hash(docora, result)["cancelled"] == "false"


def test_an_operation_of_docora_itself_can_be_followed_and_cancelled(docora: Docora) -> None:
    key = "docora:bulk:bulk_00000000000000ff"
    docora.redis.hset(
        key,
        mapping={
            "total": "10",
            "completed": "3",
            "succeeded": "2",
            "failed": "1",
            "cancelled": "false",
        },
    )
    docora.redis.expire(key, 100)
    store = docora.actions().store
    assert operations.progress(store, "bulk_00000000000000ff").completed == 3
    operations.cancel(store, "bulk_00000000000000ff")
    assert operations.progress(store, "bulk_00000000000000ff").cancelled is True
    assert 0 < docora.redis.ttl(key) <= 100
