"""The audit entries and the bulk operations. Needs only Redis."""

import time
from collections.abc import Generator
from datetime import UTC, datetime

from docora_ops.actions.docora import Docora
from docora_ops.actions.pages import Page, page_of
from docora_ops.audit import HistoryEntry
from docora_ops.bulk import KnownOperation, OperationState
from docora_ops.errors import in_future
from docora_ops.links import LinkFailure
from docora_ops.queue.audit_stream import AuditEvent, audit_entry, read_history
from docora_ops.queue.redis_server import read_clock
from docora_ops.text import When, moment_of

_POLL = 0.5  # seconds


def history(
    docora: Docora,
    *,
    schedule: bool = True,
    since: When | None = None,
    operation_id: str | None = None,
    app: str | None = None,
    page: int = 1,
    limit: int = 20,
) -> Page[HistoryEntry]:
    """Returns one page of the changes, latest first.

    schedule: include passes of `schedule`.
    since: only changes that began or ended since then, and bulk operations with a step since then.
    operation_id: only the changes of this bulk operation, and its cancellation.
    app: only changes whose selection names this app (id or name, case-insensitive).

    Raises UsageError if `since` is in the future.
    """
    first = past_moment(docora, since) if since is not None else None
    under_way = set(docora.store.find_records(first)) if first else set()
    found = [
        entry
        for entry in read_history(docora.redis, schedule=schedule)
        if (first is None or entry.latest_at >= first or entry.operation_id in under_way)
        and (operation_id is None or entry.operation_id == operation_id)
        and (app is None or entry.names_app(app))
    ]
    return page_of(found, page, limit)


def past_moment(docora: Docora, given: When) -> datetime:
    """Returns the moment by the clock of Redis, which keeps the audit entries.

    Raises UsageError if it is in the future.
    """
    now = datetime.fromtimestamp(read_clock(docora.redis), UTC)
    moment = moment_of(given, now)
    if moment > now:
        raise in_future("--since", moment, now, "Redis")
    return moment


def operations(docora: Docora, *, page: int = 1, limit: int = 50) -> Page[KnownOperation]:
    """Returns one page of the bulk operations of the last hour, latest first."""
    return page_of(docora.store.read_all(), page, limit)


def progress(docora: Docora, operation_id: str) -> tuple[KnownOperation, list[LinkFailure], int]:
    """Returns a bulk operation, its first failures, and the number of all its failures."""
    return docora.store.read(operation_id), *docora.store.read_failures(operation_id)


def follow(docora: Docora, operation_id: str) -> Generator[KnownOperation]:
    """Yields a bulk operation every 0.5 s until it ends or its runner is gone."""
    before = None
    while True:
        operation = docora.store.read(operation_id)
        yield operation
        # Cancelled, it may still complete the batches that have begun.
        is_over = operation.completed == before and operation.state is not OperationState.RUNNING
        if is_over or operation.finished:
            return
        before = operation.completed
        time.sleep(_POLL)


def cancel(docora: Docora, operation_id: str, *, reason: str | None = None) -> bool:
    """Asks a bulk operation to stop after its current batches. Queued links stay queued.

    Returns False if it has been cancelled before. `reason`: for the audit entry. Raises
    NotFoundError, OperationFinishedError.
    """
    change = docora.describe_change("cancel", reason)
    entry = audit_entry(change, AuditEvent.DONE, operation_id=operation_id)
    return docora.store.cancel(operation_id, entry, cancelled_by=change.who)
