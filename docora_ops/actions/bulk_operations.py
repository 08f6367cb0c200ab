"""Lists, follows and cancels the bulk operations of the last hour. Needs only Redis."""

import time
from collections.abc import Generator

from docora_ops.actions.docora import Docora
from docora_ops.actions.pages import Page, page_of
from docora_ops.links import LinkFailure
from docora_ops.operations import KnownOperation, OperationState
from docora_ops.queue.audit_stream import AuditEvent, audit_entry

_POLL = 0.5  # seconds


def operations(docora: Docora, *, page: int = 1, limit: int = 50) -> Page[KnownOperation]:
    """Returns one page of the bulk operations of the last hour, latest first."""
    return page_of(docora.store.read_all(), page, limit)


def progress(docora: Docora, operation_id: str) -> tuple[KnownOperation, list[LinkFailure], int]:
    """Returns a bulk operation, its first failures, and the total number of failures."""
    return docora.store.read(operation_id), *docora.store.read_failures(operation_id)


def follow(docora: Docora, operation_id: str) -> Generator[KnownOperation]:
    """Yields a bulk operation every 0.5 s until it ends or its runner is gone."""
    before = None
    while True:
        operation = docora.store.read(operation_id)
        yield operation
        # A cancelled operation still completes its current batches.
        is_over = operation.completed == before and operation.state is not OperationState.RUNNING
        if is_over or operation.finished:
            return
        before = operation.completed
        time.sleep(_POLL)


def cancel(docora: Docora, operation_id: str, *, reason: str | None = None) -> bool:
    """Asks a bulk operation to stop after its current batches. Queued links stay queued.

    Returns False if it was already cancelled. Raises NotFoundError, OperationFinishedError.

    reason: for the audit entry.
    """
    change = docora.describe_change("cancel", reason)
    entry = audit_entry(change, AuditEvent.DONE, operation_id=operation_id)
    return docora.store.cancel(operation_id, entry, cancelled_by=change.who)
