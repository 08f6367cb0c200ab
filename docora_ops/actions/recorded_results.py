"""Fills in the results of snapshots that no command awaited, from the record of outcomes.

Needs only Redis.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from docora_ops.actions.docora import Docora
from docora_ops.links import Outcome
from docora_ops.operations import HistoryEntry, KnownOperation, OperationRecord, Results
from docora_ops.queue.operation_links import read_links
from docora_ops.queue.outcomes import AskedResults, read_results

Operation = TypeVar("Operation", KnownOperation, OperationRecord)
Item = TypeVar("Item", HistoryEntry, KnownOperation, OperationRecord)


def add_to_operations(docora: Docora, operations: Sequence[Operation]) -> list[Operation]:
    """Fills in missing results of operations. Raises RedisError.

    Leaves an operation as it is if Redis no longer has its links.
    """
    asked = [
        _links_of_operation(docora, operation.operation_id, operation.started_at)
        if _is_incomplete(operation.results)
        else None
        for operation in operations
    ]
    return _add(docora, operations, asked)


def add_to_changes(docora: Docora, changes: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Fills in missing results of bulk operations and of changes of one link. Raises RedisError.

    Leaves a bulk operation as it is if Redis no longer has its links.
    """
    asked = []
    for entry in changes:
        ids = entry.selection.get("app_id"), entry.selection.get("repository_id")
        has_queued = any(entry.counts.get(outcome) for outcome in Outcome if outcome.is_put_to_work)
        links: AskedResults | None = None
        if not _is_incomplete(entry.results):
            pass
        elif entry.operation_id:
            links = _links_of_operation(docora, entry.operation_id, entry.started_at)
        elif has_queued and isinstance(ids[0], str) and isinstance(ids[1], str):
            links = AskedResults(entry.started_at, [(ids[0], ids[1])])
        asked.append(links)
    return _add(docora, changes, asked)


def _is_incomplete(results: Results | None) -> bool:
    return results is None or results.unfinished > 0


def _links_of_operation(
    docora: Docora, operation_id: str, since: datetime | None
) -> AskedResults | None:
    ids = read_links(docora.redis, operation_id, 0) if since else []
    return AskedResults(since, set(ids)) if since and ids else None


def _add(docora: Docora, items: Sequence[Item], asked: Sequence[AskedResults | None]) -> list[Item]:
    recorded = iter(read_results(docora.redis, [links for links in asked if links]))
    complete = []
    for item, links in zip(items, asked, strict=True):
        results, known = next(recorded) if links else None, item.results
        if results and (known is None or _ended(results) > _ended(known)):
            item = replace(item, results=results)  # noqa: PLW2901
        complete.append(item)
    return complete


def _ended(results: Results) -> int:
    return results.synced + results.failed + results.gone
