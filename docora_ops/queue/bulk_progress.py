"""Writes bulk operations: records, and hashes that let Docora's dashboard show and cancel them.

All functions raise RedisError.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from shlex import quote
from typing import Any

from redis import Redis
from redis.client import Pipeline

from docora_ops.errors import OperationFinishedError
from docora_ops.links import LinkFailure
from docora_ops.operations import BulkResult, Change, Results
from docora_ops.queue.audit_stream import AuditEntry, add_entry
from docora_ops.queue.operation_records import (
    EXPIRY,
    LONGEST_ERROR,
    RECORD_EXPIRY,
    add_record,
    compressed,
    operation_key,
    part_key,
    read_operation,
)
from docora_ops.queue.redis_client import redis_errors, server_time, text_of

HEARTBEAT = 30  # seconds after which a command that waits renews the TTLs
MESSAGES_KEPT = 100


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

    change: the change that started the operation. Stored each time, because Redis may have lost the
        record.
    is_first: also store the start, and add the operation to the list of records.
    failures: all links that could not be queued; empty if the record already has them.
    failed_links: all links that failed again; empty if the record already has them.
    """
    operation_id = str(result.operation_id)
    key, record_key = operation_key(operation_id), part_key(operation_id, "record")
    fields: dict[Any, Any] = {
        "total": result.total,
        "completed": result.completed,
        "succeeded": result.put_to_work,
        "failed": result.not_queued,
    }
    if result.stopped_by:  # otherwise, others may cancel at any time
        fields["cancelled"] = "true"
    of_record: dict[Any, Any] = fields | {
        "taken_over": result.taken_over or 0,
        "who": change.who,
        "command": change.command,
        "selection": json.dumps(change.selection),
        "reason": change.reason or "",
        "stopped_by": result.stopped_by or "",
    }
    if result.cancelled_by:
        of_record["cancelled_by"] = result.cancelled_by
    if results:
        of_record["results"] = json.dumps(asdict(results))
    if failures:
        of_record["failures"] = compressed(failures)
    if failed_links:
        of_record["failed_links"] = compressed(failed_links)
    with _transaction(client, audit) as pipeline:
        of_record["stepped_at"] = int(server_time(client) * 1000)
        pipeline.hsetnx(key, "cancelled", "false")
        pipeline.hset(key, mapping=fields)
        pipeline.expire(key, EXPIRY)
        if is_first:
            of_record["started_at"] = of_record["stepped_at"]
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
    fields = {"results": json.dumps(asdict(results)), "failed_links": compressed(failed_links)}
    _add_to_record(client, operation_id, fields, audit)


def write_messages(client: Redis, operation_id: str, messages: Sequence[str]) -> None:
    """Stores the last messages of the command that runs the operation."""
    kept = [message[:LONGEST_ERROR] for message in messages[-MESSAGES_KEPT:]]
    _add_to_record(client, operation_id, {"messages": json.dumps(kept)})


def _add_to_record(
    client: Redis, operation_id: str, fields: dict[Any, Any], audit: AuditEntry | None = None
) -> None:
    key = part_key(operation_id, "record")
    with _transaction(client, audit) as pipeline:
        pipeline.hset(key, mapping=fields)
        pipeline.expire(key, RECORD_EXPIRY)
        pipeline.execute()


def renew(client: Redis, operation_id: str) -> None:
    """Keeps an operation and its links for another hour."""
    with redis_errors(client):
        client.expire(operation_key(operation_id), EXPIRY)
        client.expire(part_key(operation_id, "links"), EXPIRY)


def cancel_operation(
    client: Redis, operation_id: str, audit: AuditEntry, *, cancelled_by: str
) -> bool:
    """Asks the operation to stop after its current batch. Returns False if already cancelled.

    Raises NotFoundError if the operation is unknown, OperationFinishedError if it has finished.
    """
    operation = read_operation(client, operation_id)
    if operation.finished:
        raise OperationFinishedError(
            f"operation {operation_id!r} has finished: nothing is left to cancel",
            hint=f"docora-ops operations {quote(operation_id)} shows what it did",
        )
    if operation.cancelled:
        return False
    keys = {operation_key(operation_id): EXPIRY}
    if operation.who is not None:  # operations of the dashboard have no record
        keys[part_key(operation_id, "record")] = RECORD_EXPIRY
    with _transaction(client, audit) as pipeline:
        for key, expiry in keys.items():
            pipeline.hset(key, mapping={"cancelled": "true", "cancelled_by": cancelled_by})
            pipeline.expire(key, expiry)  # the key may have expired just now
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
