"""The progress of bulk operations, in hashes that let Docora's dashboard show and cancel them.

All functions raise RedisError.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from shlex import quote
from typing import Any

from redis import Redis
from redis.client import Pipeline

from docora_ops.errors import NotFoundError, OperationFinishedError
from docora_ops.links import LinkFailure
from docora_ops.operations import BulkResult, Change, KnownOperation, OperationState, Results
from docora_ops.queue.audit_stream import AuditEntry, add_entry
from docora_ops.queue.operation_records import (
    EXPIRY,
    FIELDS,
    LONGEST_ERROR,
    PREFIX,
    RECORD_EXPIRY,
    add_record,
    compressed,
    operation_key,
    operation_of,
    part_key,
)
from docora_ops.queue.redis_answers import text_of
from docora_ops.queue.redis_client import redis_errors, server_time

HEARTBEAT = 30  # seconds after which a command renews the TTLs, even in the middle of a batch
MESSAGES_KEPT = 100
_SCAN_COUNT = 1_000
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def write_progress(
    client: Redis,
    result: BulkResult,
    *,
    change: Change,
    is_first: bool,
    results: Results | None = None,
    failures: Sequence[LinkFailure] = (),
    failed_links: Sequence[LinkFailure] = (),
    audit: AuditEntry | None = None,
) -> str | None:
    """Stores the counts and the record of an operation.

    Renews the TTLs of both, and of the claimed links.
    If the operation has stopped early, also marks it as cancelled, for the dashboard.
    Returns None if the operation is not cancelled; otherwise who cancelled it, empty if unknown.

    change: the change that started the operation. Stored each time, because Redis may lose the
        hash, and the hash may expire while the host of the command sleeps.
    is_first: also store the start and the reason, and add the operation to the list of records.
    failures: all links that could not be queued; empty if the record already has them.
    failed_links: all links that failed again; empty if the record already has them.
    """
    operation_id = str(result.operation_id)
    fields: dict[Any, Any] = {
        "total": result.total,
        "completed": result.completed,
        "succeeded": result.put_to_work,
        "failed": result.not_queued,
        "who": change.who,
        "command": change.command,
        "selection": json.dumps(change.selection),
    }
    if result.taken_over:
        fields["taken_over"] = result.taken_over
    if result.stopped_by:  # otherwise, others may cancel at any time
        fields |= {"stopped_by": result.stopped_by, "cancelled": "true"}
    if results:
        fields["results"] = json.dumps(asdict(results))
    of_record: dict[Any, Any] = {"cancelled": "false"} | fields
    if result.cancelled_by:
        of_record["cancelled_by"] = result.cancelled_by
    if failures:
        of_record["failures"] = compressed(failures)
    if failed_links:
        of_record["failed_links"] = compressed(failed_links)
    key, record_key = operation_key(operation_id), part_key(operation_id, "record")
    with _transaction(client, audit) as pipeline:
        pipeline.hsetnx(key, "cancelled", "false")
        pipeline.hset(key, mapping=fields)
        pipeline.expire(key, EXPIRY)
        if is_first:
            of_record["started_at"] = int(server_time(client) * 1000)
            of_record["reason"] = change.reason or ""
            add_record(client, pipeline, operation_id)
        pipeline.hset(record_key, mapping=of_record)
        pipeline.expire(record_key, RECORD_EXPIRY)
        pipeline.expire(part_key(operation_id, "links"), EXPIRY)
        pipeline.hmget(key, ["cancelled", "cancelled_by"])
        cancelled, by = pipeline.execute()[-1]
    return text_of(by or b"") if cancelled == b"true" else None


def write_results(
    client: Redis,
    operation_id: str,
    results: Results,
    failed_links: Sequence[LinkFailure],
    audit: AuditEntry,
) -> None:
    """Stores the results of the operation's snapshots, and an audit entry."""
    fields: dict[Any, Any] = {"results": json.dumps(asdict(results))}
    of_record = fields | {"failed_links": compressed(failed_links)}
    _add(client, operation_id, fields, of_record, audit)


def write_messages(client: Redis, operation_id: str, messages: Sequence[str]) -> None:
    """Stores the last messages of the command that runs the operation."""
    kept = [message[:LONGEST_ERROR] for message in messages[-MESSAGES_KEPT:]]
    fields: dict[Any, Any] = {"messages": json.dumps(kept)}
    _add(client, operation_id, fields, fields)


def _add(
    client: Redis,
    operation_id: str,
    fields: dict[Any, Any],
    of_record: dict[Any, Any],
    audit: AuditEntry | None = None,
) -> None:
    """Adds `fields` to an operation, `of_record` to its record. Skips either if it has expired."""
    record_key = part_key(operation_id, "record")
    with _transaction(client, audit) as pipeline:
        for key, mapping in ((operation_key(operation_id), fields), (record_key, of_record)):
            # The time of the last step is derived from the TTL, which must not be shortened.
            left = math.ceil(int(client.pttl(key)) / 1000)
            if left > 0:
                pipeline.hset(key, mapping=mapping)
                pipeline.expire(key, left)  # the key may have expired just now
        pipeline.execute()


def read_operation(client: Redis, operation_id: str) -> KnownOperation:
    """Returns an operation. Raises NotFoundError if it is unknown or expired."""
    for operation in read_operations(client, [operation_id]):
        return operation
    raise NotFoundError(
        f"Operation not found or expired: {operation_id!r}",
        hint="ids look like bulk_0123456789abcdef; an operation is kept for an hour after its "
        "last step, and for a week in reports",
    )


def read_operations(
    client: Redis, operation_ids: Sequence[str] | None = None
) -> list[KnownOperation]:
    """Returns operations, most recent step first; omits expired ones.

    operation_ids: None means all operations.
    """
    with redis_errors(client):
        if operation_ids is None:
            keys = set(client.scan_iter(f"{PREFIX}*", count=_SCAN_COUNT, _type="HASH"))
            operation_ids = [text_of(key).removeprefix(PREFIX) for key in sorted(keys)]
        pipeline = client.pipeline(transaction=False)
        pipeline.time()
        for operation_id in operation_ids:
            pipeline.pttl(operation_key(operation_id))
            pipeline.hmget(operation_key(operation_id), FIELDS)
        now, *replies = pipeline.execute()
    operations = [
        operation_of(id_, values, now, seconds_left=left / 1000, expiry=EXPIRY)
        for id_, left, values in zip(operation_ids, replies[::2], replies[1::2], strict=True)
        if values[0] is not None  # the dashboard's cancel makes a hash without a total
    ]
    return sorted(operations, key=lambda known: known.last_step_at or _LONG_AGO, reverse=True)


def renew(client: Redis, operation: KnownOperation) -> None:
    """Keeps an operation's links and, if it has ended, its counts for another hour.

    Does not renew the counts in the first half hour after the last step, because the time of
    that step is derived from their TTL.
    """
    is_old = (operation.last_step_seconds or 0) > EXPIRY / 2
    has_ended = operation.state in {OperationState.DONE, OperationState.CANCELLED}
    with redis_errors(client):
        client.expire(part_key(operation.operation_id, "links"), EXPIRY)
        if has_ended and is_old:
            client.expire(operation_key(operation.operation_id), EXPIRY)


def cancel_operation(
    client: Redis, operation_id: str, audit: AuditEntry, *, cancelled_by: str
) -> bool:
    """Asks the operation to stop after its current batch. Returns False if already cancelled.

    Raises NotFoundError if the operation is unknown, OperationFinishedError if it has finished.
    """
    operation, key = read_operation(client, operation_id), operation_key(operation_id)
    if operation.finished:
        raise OperationFinishedError(
            f"operation {operation_id!r} has finished: nothing is left to cancel",
            hint=f"docora-ops operations {quote(operation_id)} shows what it did",
        )
    if operation.cancelled:
        return False
    with _transaction(client, audit) as pipeline:
        pipeline.hset(key, mapping={"cancelled": "true", "cancelled_by": cancelled_by})
        pipeline.expire(key, EXPIRY)  # the key may have expired just now
        pipeline.execute()
    return True


@contextmanager
def _transaction(client: Redis, audit: AuditEntry | None) -> Iterator[Pipeline]:
    """Yields a pipeline that begins with the audit entry, if any. The caller executes it.

    If one of its commands is not permitted, Redis executes none.
    """
    with redis_errors(client), client.pipeline() as pipeline:
        if audit:
            add_entry(pipeline, audit)
        yield pipeline
