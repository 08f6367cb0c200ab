"""The progress of a bulk operation, and how it is cancelled before its end."""

from collections.abc import Callable

import pytest

from docora_ops.actions.bulk.run import BulkRun
from docora_ops.audit import Change, HistoryState
from docora_ops.links import Outcome
from docora_ops.queue.audit_stream import read_history
from tests.support.docora import Docora
from tests.support.running_commands import only_operation, progress_of

# Cancelling and stopping


def test_an_operation_cancelled_too_late_is_done_in_the_audit_entries_too(docora: Docora) -> None:
    docora.add_links(6)
    actions = docora.actions()

    def prepare(run: BulkRun) -> None:
        def step(done: int) -> None:
            if done == 6:  # the last batch is committed, and not reported yet
                actions.store.cancel(run.operation_id or "")

        run.on_progress = step

    change = Change("somebody@host", "retry-all-failed", {})
    result = actions.retry_all(batch_size=2, change=change, prepare=prepare)
    assert (result.completed, result.cancelled) == (6, False)
    [entry] = read_history(actions.redis)
    assert entry.state is HistoryState.DONE
    assert entry.counts == {"total": 6, Outcome.QUEUED: 6}


def test_an_operation_cancelled_before_its_first_batch_ends_after_it(docora: Docora) -> None:
    docora.add_links(5)
    actions = docora.actions()
    result = actions.retry_all(
        batch_size=1, prepare=lambda run: actions.store.cancel(run.operation_id or "")
    )
    assert result.cancelled is True
    assert result.completed == 1, "the run looks when it reports"
    assert docora.statuses()["failed"] == 4
    docora.assert_sound()


# Progress


def test_progress_is_there_before_the_first_link_and_grows_batch_by_batch(docora: Docora) -> None:
    docora.add_links(10)
    seen: list[str] = []
    reported: list[int] = []

    def prepare(run: BulkRun) -> None:
        assert progress_of(docora, only_operation(docora)) == {
            "total": "10",
            "completed": "0",
            "succeeded": "0",
            "failed": "0",
            "cancelled": "false",
        }

        def step(done: int) -> None:
            # Called before Redis is told, so it still shows the batch before.
            seen.append(progress_of(docora, only_operation(docora))["completed"])
            reported.append(done)

        run.on_progress = step

    docora.actions().retry_all(batch_size=3, prepare=prepare)
    assert reported == [3, 6, 9, 10]
    assert seen == ["0", "3", "6", "9"]


def somebody_writes_into_it(docora: Docora, key: str) -> None:
    docora.redis.hset(key, "completed", "1000")


def it_expires(docora: Docora, key: str) -> None:
    docora.redis.delete(key)


@pytest.mark.parametrize("happening", [somebody_writes_into_it, it_expires])
def test_progress_is_written_whole_with_each_batch(
    docora: Docora, happening: Callable[[Docora, str], None]
) -> None:
    docora.add_links(6)

    def prepare(run: BulkRun) -> None:
        run.on_progress = lambda done: happening(docora, f"docora:bulk:{run.operation_id}")

    result = docora.actions().retry_all(batch_size=2, prepare=prepare)
    assert result.operation_id is not None
    assert progress_of(docora, result.operation_id) == {
        "total": "6",
        "completed": "6",
        "succeeded": "6",
        "failed": "0",
        "cancelled": "false",
    }
