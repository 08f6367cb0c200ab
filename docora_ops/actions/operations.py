"""Looking at a bulk operation, and cancelling one."""

from __future__ import annotations

from shlex import quote

from docora_ops.audit import ChangeNote
from docora_ops.bulk import KeptFailures, KnownOperation, Progress
from docora_ops.errors import NotFoundError, OperationFinishedError
from docora_ops.queue import ProgressStore
from docora_ops.queue.audit_stream import cancel_entry
from docora_ops.queue.progress import CancelReply


def progress(store: ProgressStore, operation_id: str) -> Progress:
    """The operation as it stands. Raises NotFoundError, RedisError."""
    found = store.read(operation_id)
    if found is None:
        raise _not_found(operation_id)
    return found


def failures(store: ProgressStore, operation_id: str) -> KeptFailures:
    """The links that the operation has left undone so far. Raises RedisError.

    None are kept with an operation of the dashboard.
    """
    return store.read_failures(operation_id)


def known_operations(store: ProgressStore) -> list[KnownOperation]:
    """The bulk operations that are remembered, the latest step first. Raises RedisError."""
    return store.read_all()


def has_lost_its_runner(store: ProgressStore, operation_id: str) -> bool:
    """Whether nobody works on the operation any more, as far as one can tell. Raises RedisError."""
    return store.has_lost_its_runner(operation_id)


def cancel(store: ProgressStore, operation_id: str, note: ChangeNote | None = None) -> None:
    """Ask the operation's runner to stop before its next step; leave `note` in the audit trail.

    Raises NotFoundError, OperationFinishedError, RedisError.
    """
    match store.cancel(operation_id, cancel_entry(note, operation_id) if note else None):
        case CancelReply.UNKNOWN:
            raise _not_found(operation_id)
        case CancelReply.FINISHED:
            raise OperationFinishedError(
                f"operation {operation_id!r} has finished: nothing is left to cancel",
                hint=f"docora-ops progress {quote(operation_id)} shows what it did",
            )
        case CancelReply.CANCELLED:
            return


def _not_found(operation_id: str) -> NotFoundError:
    return NotFoundError(
        f"Operation not found or expired: {operation_id!r}",
        hint="ids look like bulk_0123456789abcdef; an operation is forgotten an hour after its "
        "last step",
    )
