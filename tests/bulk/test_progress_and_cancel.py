"""The progress of a bulk operation, and how it is cancelled before its end."""

from collections.abc import Callable
from typing import Any

import pytest

from docora_ops.actions import BulkStep
from docora_ops.audit import HistoryState
from docora_ops.links import Outcome
from docora_ops.queue.audit_stream import read_history
from tests.support.docora import Docora
from tests.support.running_commands import only_operation, progress_of

# Cancelling and stopping


def test_an_operation_cancelled_too_late_is_done_in_the_audit_entries_too(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(6)
    actions = docora.actions()

    def cancel(step: BulkStep) -> None:
        if step.result.completed == 4:  # the last batch follows, and the report of it
            write = actions.store.write

            def cancel_then_write(*arguments: Any, **options: Any) -> tuple[bool, str | None]:
                actions.store.cancel(step.result.operation_id or "")
                return write(*arguments, **options)

            monkeypatch.setattr(actions.store, "write", cancel_then_write)

    result = actions.retry_all(batch_size=2, each=cancel)
    assert (result.completed, result.cancelled) == (6, False)
    [entry] = read_history(actions.redis)
    assert entry.state is HistoryState.DONE
    assert entry.counts == {"total": 6, Outcome.QUEUED: 6}


def test_an_operation_cancelled_before_its_first_batch_ends_after_it(docora: Docora) -> None:
    docora.add_links(5)
    actions = docora.actions()
    result = actions.retry_all(
        batch_size=1, prepare=lambda step: actions.store.cancel(step.result.operation_id or "")
    )
    assert result.cancelled is True
    assert result.completed == 2, "both batches that were in flight at the first report"
    assert docora.statuses()["failed"] == 3
    docora.assert_sound()


# Progress


def test_progress_is_there_before_the_first_link_and_grows_batch_by_batch(docora: Docora) -> None:
    docora.add_links(10)
    seen: list[tuple[int, dict[str, str]]] = []

    def look(step: BulkStep) -> None:
        seen.append((step.result.completed, progress_of(docora, only_operation(docora))))

    docora.actions().retry_all(batch_size=3, prepare=look, each=look)
    expected = [
        {
            "total": "10",
            "completed": str(done),
            "succeeded": str(done),
            "failed": "0",
            "cancelled": "false",
        }
        for done in (0, 6, 10, 10)  # two batches are in flight between two steps
    ]
    assert seen == [(int(progress["completed"]), progress) for progress in expected]


def somebody_writes_into_it(docora: Docora, key: str) -> None:
    docora.redis.hset(key, "completed", "1000")


def it_expires(docora: Docora, key: str) -> None:
    docora.redis.delete(key)


@pytest.mark.parametrize("happening", [somebody_writes_into_it, it_expires])
def test_progress_is_written_whole_with_each_batch(
    docora: Docora, happening: Callable[[Docora, str], None]
) -> None:
    docora.add_links(6)

    def look(step: BulkStep) -> None:
        if step.result.completed < step.result.total:
            happening(docora, f"docora:bulk:{step.result.operation_id}")

    result = docora.actions().retry_all(batch_size=2, prepare=look, each=look)
    assert result.operation_id is not None
    assert progress_of(docora, result.operation_id) == {
        "total": "6",
        "completed": "6",
        "succeeded": "6",
        "failed": "0",
        "cancelled": "false",
    }
