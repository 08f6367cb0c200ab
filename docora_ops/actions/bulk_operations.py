"""Lists, follows and cancels the bulk operations of the last hour. Needs only Redis."""

import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace

from docora_ops.actions.docora import Docora
from docora_ops.actions.pages import Page, page_of
from docora_ops.actions.recorded_results import add_recorded_results
from docora_ops.errors import AmbiguousError, NotFoundError, RedisError
from docora_ops.operations import KnownOperation, OperationRecord, OperationState
from docora_ops.queue.audit_stream import AuditEvent, audit_entry
from docora_ops.queue.operation_records import (
    cancel_operation,
    read_operation,
    read_operations,
    write_messages,
)

MESSAGES_KEPT = 100  # of a detached command
_POLL = 0.5  # seconds


def operations(docora: Docora, *, page: int = 1, limit: int = 50) -> Page[KnownOperation]:
    """Returns one page of the bulk operations of the last hour, latest first. Raises RedisError."""
    shown = page_of(read_operations(docora.redis), page, limit)
    return replace(shown, rows=add_recorded_results(docora, shown.rows))


def operation(docora: Docora, operation_id: str) -> OperationRecord:
    """Returns a bulk operation of the last hour. Raises NotFoundError, RedisError."""
    [known] = add_recorded_results(docora, [read_operation(docora.redis, operation_id)])
    return known


def running_operation(docora: Docora) -> KnownOperation:
    """Returns the only running bulk operation.

    Raises NotFoundError if none is running, AmbiguousError if several are, RedisError.
    """
    recent = read_operations(docora.redis)
    running = [operation for operation in recent if operation.state is OperationState.RUNNING]
    if not running:
        raise NotFoundError(
            "no bulk operation is running", hint="docora-ops operations lists the ended ones"
        )
    if len(running) > 1:
        owners = ((known.operation_id, known.who or "Docora's dashboard") for known in running)
        listed = ", ".join(f"{operation_id} of {who}" for operation_id, who in owners)
        raise AmbiguousError(
            f"{len(running)} bulk operations are running: {listed}",
            hint="give the id of the one you mean; docora-ops operations shows what they do",
            details={"operation_ids": [operation.operation_id for operation in running]},
        )
    return running[0]


def follow(docora: Docora, operation_id: str) -> Generator[KnownOperation]:
    """Yields a bulk operation every 0.5 s until it ends, or has made no progress for two minutes.

    Raises NotFoundError, RedisError.
    """
    before = None
    while True:
        operation = read_operation(docora.redis, operation_id)
        yield operation
        # A cancelled operation still completes its current batch.
        is_over = operation.completed == before and operation.state is not OperationState.RUNNING
        if is_over or operation.finished:
            return
        before = operation.completed
        time.sleep(_POLL)


def keep_messages(docora: Docora, operation_id: str, messages: Sequence[str]) -> None:
    """Stores the messages of a detached command with its operation, unless Redis is down."""
    with suppress(RedisError):
        write_messages(docora.redis, operation_id, messages)


def cancel(docora: Docora, operation_id: str, *, reason: str | None = None) -> bool:
    """Asks a bulk operation to stop after its current batch. Queued links stay queued.

    Returns False if the operation was already cancelled. Raises NotFoundError,
    OperationFinishedError, RedisError.

    reason: for the audit entry.
    """
    change = docora.describe_change("cancel", reason)
    entry = audit_entry(change, AuditEvent.DONE, operation_id=operation_id)
    return cancel_operation(docora.redis, operation_id, entry, cancelled_by=change.who)
