"""The progress of a bulk operation, and how it is cancelled before its end."""

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


# Progress


def test_progress_is_there_before_the_first_link_and_written_whole_with_each_batch(
    docora: Docora,
) -> None:
    docora.add_links(10)
    seen: list[tuple[int, dict[str, str]]] = []

    def look(step: BulkStep) -> None:
        seen.append((step.result.completed, progress_of(docora, only_operation(docora))))
        # Others write into it, or it expires.
        key = f"docora:bulk:{step.result.operation_id}"
        docora.redis.hset(key, "completed", "1000")
        if step.result.completed == 6:
            docora.redis.hdel(key, "total", "cancelled")

    docora.actions().retry_all(batch_size=3, prepare=look, each=look)
    names = ("total", "completed", "succeeded", "failed", "cancelled")
    assert [done for done, _ in seen] == [0, 6, 10, 10]
    for done, progress in seen[:-1]:
        values = ("10", str(done), str(done), "0", "false")
        assert progress == dict(zip(names, values, strict=True))
