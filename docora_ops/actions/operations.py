"""Lists, shows, follows and cancels operations."""

import time
from collections.abc import Generator
from dataclasses import replace

from docora_ops.actions.changes import new_operation
from docora_ops.actions.docora import Docora
from docora_ops.actions.waiting import Wait, wait_for
from docora_ops.errors import AmbiguousError, NotFoundError, OperationFinishedError
from docora_ops.queue import operations as record
from docora_ops.queue.operations import Operation, OperationState

_PAUSE = 0.5  # seconds between two looks at an operation whose links so far have their results


def recent(docora: Docora, limit: int) -> list[Operation]:
    """Returns the last operations, newest first.

    Nothing tells when those of Docora's dashboard began: the running ones come first, the others
    at the end. Raises RedisError.
    """
    known = record.read_recent(docora.redis, limit)
    others = record.read_of_dashboard(docora.redis)
    running = [operation for operation in others if operation.state is OperationState.RUNNING]
    ended = [operation for operation in others if operation.state is not OperationState.RUNNING]
    return (running + known + ended)[:limit]


def find(docora: Docora, operation_id: str) -> Operation:
    """Returns an operation. Raises NotFoundError, RedisError."""
    operation = record.read(docora.redis, operation_id)
    if operation is None:
        raise NotFoundError(
            f"Operation not found or expired: {operation_id!r}",
            hint="operations are kept for 30 days; docora-ops operations lists them",
        )
    return operation


def follow(docora: Docora, operation_id: str, timeout: float | None) -> Generator[Wait]:
    """Yields how far the snapshots of an operation's links are, until each has its result.

    While the operation is running, also waits for its further links, which count as unfinished.

    Raises NotFoundError if the operation or the list of its links is unknown; RedisError,
    PostgresError.
    """
    begun = time.monotonic()
    while True:
        operation = find(docora, operation_id)
        ids = record.read_links(docora.redis, operation_id)
        if not ids and (operation.succeeded or operation.started_at is None):
            raise NotFoundError(
                f"the links of operation {operation_id!r} are not known",
                hint="they are kept for 7 days, and only of operations of docora-ops",
            )
        is_running = operation.state is OperationState.RUNNING
        to_come = operation.total - operation.completed if is_running else 0
        left = None if timeout is None else begun + timeout - time.monotonic()
        for wait in wait_for(docora, ids, left):
            seconds = time.monotonic() - begun
            is_late = timeout is not None and seconds >= timeout
            total = replace(wait, total=wait.total + to_come, seconds=round(seconds, 1))
            yield replace(total, timed_out=is_late and total.unfinished > 0)
        if is_late or not is_running:
            return
        time.sleep(_PAUSE)


def cancel(docora: Docora, operation_id: str | None, reason: str | None = None) -> Operation:
    """Asks a running bulk operation to stop after its current batch. Returns it, as cancelled.

    operation_id: None for the only one that is running.

    Raises NotFoundError, OperationFinishedError, AmbiguousError, RedisError.
    """
    operation = find(docora, operation_id) if operation_id else _only_running(docora)
    if operation.state is not OperationState.RUNNING or not operation.is_bulk:
        raise OperationFinishedError(
            f"operation {operation.operation_id} is not running: it is {operation.state}",
            hint="docora-ops operations lists what is running",
        )
    record.cancel(docora.redis, operation, docora.user)
    entry = new_operation(docora, "cancel", operation.operation_id, reason=reason, is_bulk=False)
    record.save(docora.redis, entry.after([]))
    return replace(operation, cancelled=True, cancelled_by=docora.user)


def _only_running(docora: Docora) -> Operation:
    running = [
        operation
        for operation in recent(docora, 1000)
        if operation.state is OperationState.RUNNING and operation.is_bulk
    ]
    if not running:
        raise NotFoundError("no bulk operation is running", hint="docora-ops operations lists all")
    if len(running) > 1:
        ids = [operation.operation_id for operation in running]
        raise AmbiguousError(
            f"{len(ids)} bulk operations are running: {', '.join(ids)}",
            hint="give the id of the one you mean",
            details={"operation_ids": ids},
        )
    return running[0]
