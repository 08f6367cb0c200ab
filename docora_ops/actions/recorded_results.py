"""Fills in the results of snapshots that no command awaited, from the record of outcomes.

Needs only Redis.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from docora_ops.actions.docora import Docora
from docora_ops.links import LinkRef, Outcome
from docora_ops.operations import HistoryEntry, KnownOperation, OperationRecord, Results
from docora_ops.queue.operation_links import read_links
from docora_ops.queue.outcomes import AskedResults, read_results

Change = TypeVar("Change", HistoryEntry, KnownOperation, OperationRecord)


def add_recorded_results(docora: Docora, changes: Sequence[Change]) -> list[Change]:
    """Fills in missing results of bulk operations and of changes of one link. Raises RedisError.

    Leaves a bulk operation as it is if Redis no longer has its links.
    """
    complete = list(changes)
    asked: dict[int, AskedResults] = {
        number: links
        for number, change in enumerate(changes)
        if (links := _links_of(docora, change))
    }
    recorded = read_results(docora.redis, [*asked.values()])
    for number, results in zip(asked, recorded, strict=True):
        known = changes[number].results
        if results and (known is None or _ended(results) > _ended(known)):
            complete[number] = replace(changes[number], results=results)
    return complete


def _links_of(docora: Docora, change: HistoryEntry | KnownOperation) -> AskedResults | None:
    """Returns the links of a change that lacks results.

    Returns None if the change has all results, or if its links are not known.
    """
    since, links = change.started_at, set[str]()
    if since is None or (change.results and not change.results.unfinished):
        return None
    if change.operation_id:
        links.update(read_links(docora.redis, change.operation_id, 0))
    elif isinstance(change, HistoryEntry):  # the change of one link, which has no list of links
        ids = change.selection.get("app_id"), change.selection.get("repository_id")
        is_queued = any(change.counts.get(outcome) for outcome in Outcome if outcome.is_put_to_work)
        if is_queued and isinstance(ids[0], str) and isinstance(ids[1], str):
            links.add(LinkRef("", ids[0], ids[1]).job_id)
    return AskedResults(since, links) if links else None


def _ended(results: Results) -> int:
    return results.synced + results.failed + results.gone
