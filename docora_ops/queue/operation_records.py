"""Bulk operations in Redis: the hashes that Docora's dashboard polls, and our records.

All functions that take a client raise RedisError.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, replace
from datetime import UTC, datetime
from shlex import quote
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline

from docora_ops.errors import NotFoundError, OperationFinishedError
from docora_ops.links import LinkFailure, batches
from docora_ops.operations import (
    BulkResult,
    Change,
    KnownOperation,
    OperationRecord,
    OperationState,
    Results,
)
from docora_ops.queue.audit_stream import AuditEntry, add_entry, results_of, stopped_by_of
from docora_ops.queue.redis_client import (
    mapping_of,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)

EXPIRY = 3_600  # seconds for which an operation is kept after its last batch
LINKS_EXPIRY = 86_400  # likewise for its links, because their results may come later
HEARTBEAT = 30  # seconds after which a command that waits renews the TTLs
OWNER_PATIENCE = 120  # seconds without a step after which an operation counts as abandoned
LONGEST_ERROR = 1_000  # characters of an error or a message
PREFIX = "docora:bulk:"
RECORD_EXPIRY = 7 * 86_400  # seconds for which the record of an operation is kept
RECORDS_KEPT = 1_000
FAILURES_OF_RECORD = 1_000
_RECORDS = "docora-ops:operations"  # a stream of the ids of operations with a record
# Fields of the dashboard's hash; the dashboard does not know the last one.
_SHARED_FIELDS = ("total", "completed", "succeeded", "failed", "cancelled", "cancelled_by")
_RECORD_FIELDS = (
    *_SHARED_FIELDS,
    *("taken_over", "who", "command", "selection", "reason", "started_at", "stepped_at"),
    *("stopped_by", "results", "messages"),
)
_SCAN_COUNT = 1_000
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def operation_key(operation_id: str) -> str:
    """Returns the key of the hash that Docora's dashboard reads."""
    return PREFIX + operation_id


def part_key(operation_id: str, part: str) -> str:
    """Returns the key of a part of an operation.

    part: one of these; the last two exist only while the operation is at work:
        - `record`: what is kept for a week.
        - `links`: the row ids of the claimed links.
        - `selection`: the row ids of all links.
        - `left_alone`: the row ids of the links that the operation will not queue.
    """
    # With `PREFIX`, the dashboard would take the key for an operation.
    return f"docora-ops:operation:{operation_id}:{part}"


def read_operation(
    client: Redis, operation_id: str, *, of_the_week: bool = False
) -> OperationRecord:
    """Returns an operation. Raises NotFoundError if it is unknown or expired.

    of_the_week: also return an operation of which only the record is left, kept for a week.
    """
    with redis_errors(client), client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        _ask(pipeline, operation_id)
        pipeline.hmget(part_key(operation_id, "record"), ["failures", "failed_links"])
        now, *answers, failures = pipeline.execute()
    _, shared, recorded = answers
    if shared[0] is None and not (of_the_week and recorded[0] is not None):
        raise NotFoundError(
            f"Operation not found or expired: {operation_id!r}",
            hint="ids look like bulk_0123456789abcdef; an operation is kept for an hour after its "
            "last step, and for a week in reports",
        )
    not_queued, failed_again = map(_failures_of, failures)
    operation = _operation_of(operation_id, now, *answers)
    return OperationRecord(**vars(operation), failures=not_queued, failed_links=failed_again)


def read_operations(
    client: Redis, operation_ids: Sequence[str] | None = None
) -> list[KnownOperation]:
    """Returns operations, most recent progress first. Omits expired operations.

    operation_ids: None means all operations.
    """
    with redis_errors(client):
        if operation_ids is None:
            keys = set(client.scan_iter(f"{PREFIX}*", count=_SCAN_COUNT, _type="HASH"))
            operation_ids = [text_of(key).removeprefix(PREFIX) for key in sorted(keys)]
        pipeline = client.pipeline(transaction=False)
        pipeline.time()
        for operation_id in operation_ids:
            _ask(pipeline, operation_id)
        now, *replies = pipeline.execute()
    operations = [
        _operation_of(id_, now, *answers)
        for id_, answers in zip(operation_ids, batches(replies, 3), strict=True)
        if answers[1][0] is not None  # the dashboard's cancel makes a hash without a total
    ]
    return sorted(operations, key=lambda known: known.last_step_at or _LONG_AGO, reverse=True)


def _ask(pipeline: Pipeline, operation_id: str) -> None:
    pipeline.pttl(operation_key(operation_id))
    pipeline.hmget(operation_key(operation_id), _SHARED_FIELDS)
    pipeline.hmget(part_key(operation_id, "record"), _RECORD_FIELDS)


def _operation_of(
    operation_id: str,
    time: tuple[int, int],
    left: int,
    shared: Sequence[bytes | None],
    recorded: Sequence[bytes | None],
) -> KnownOperation:
    """Returns the operation that a hash and a record describe. Either may be missing.

    time: the reply of Redis to TIME.
    left: the remaining TTL of the hash, in milliseconds.
    shared, recorded: the values of `_SHARED_FIELDS` and `_RECORD_FIELDS`.
    """
    values = dict(zip(_RECORD_FIELDS, recorded, strict=True))
    # The dashboard cancels in the hash alone.
    values |= {
        name: value for name, value in zip(_SHARED_FIELDS, shared, strict=True) if value is not None
    }

    def number(name: str) -> int:
        return whole_number(values[name]) or 0

    def text(name: str) -> str | None:
        return optional_text_of(values[name])

    now, stepped = time[0] + time[1] / 1e6, number("stepped_at") / 1000
    if not stepped and 0 <= left <= EXPIRY * 1000:  # of the dashboard, which sets this TTL
        stepped = now - EXPIRY + left / 1000
    is_cancelled, state = values["cancelled"] == b"true", OperationState.RUNNING
    if number("completed") >= number("total"):
        state = OperationState.DONE
    elif is_cancelled:
        state = OperationState.CANCELLED
    elif stepped and now - stepped > OWNER_PATIENCE:
        state = OperationState.OWNER_GONE
    began = number("started_at")
    return KnownOperation(
        operation_id=operation_id,
        total=number("total"),
        completed=number("completed"),
        put_to_work=number("succeeded"),
        not_queued=number("failed"),
        cancelled=is_cancelled,
        taken_over=number("taken_over"),
        state=state,
        started_at=moment_of_timestamp(began / 1000) if began else None,
        last_step_at=moment_of_timestamp(stepped) if stepped else None,
        last_step_seconds=max(0, int(now - stepped)) if stepped else None,
        who=text("who"),
        command=text("command"),
        selection=mapping_of(text("selection")),
        reason=text("reason"),
        stopped_by=stopped_by_of(text("stopped_by")),
        cancelled_by=text("cancelled_by"),
        results=results_of(text("results")),
        messages=_texts_of(text("messages")),
    )


def _texts_of(text: str | None) -> list[str]:
    """Parses a JSON list of texts; returns an empty list for anything else."""
    texts = mapping_of(f'{{"texts": {text}}}').get("texts")
    return texts if isinstance(texts, list) else []


def add_record(client: Redis, pipeline: Pipeline, operation_id: str) -> None:
    """Adds an operation to the list of records; if the list is full, deletes the oldest records.

    Reads the list immediately. Adds the writes to the pipeline, which the caller executes.
    """
    entry: dict[Any, Any] = {"operation_id": operation_id}
    pipeline.xadd(_RECORDS, entry, maxlen=RECORDS_KEPT, approximate=False)
    pipeline.expire(_RECORDS, RECORD_EXPIRY)
    for surplus_id in record_ids(client)[RECORDS_KEPT - 1 :]:
        pipeline.expire(part_key(surplus_id, "record"), 0)  # deletes it


def record_ids(client: Redis) -> list[str]:
    """Returns the ids of all operations in the list of records, newest first."""
    with redis_errors(client):
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrevrange(_RECORDS))
    return [text_of(fields.get(b"operation_id", b"")) for _, fields in entries]


def find_records(client: Redis, since: datetime) -> list[str]:
    """Returns the ids of operations with progress since `since`, most recently started first."""
    operation_ids = record_ids(client)
    keys = (part_key(operation_id, "record") for operation_id in operation_ids)
    with redis_errors(client):
        steps = read_hashes(client, keys, ["stepped_at"])
    first = since.timestamp() * 1000
    return [
        operation_id
        for operation_id, [step] in zip(operation_ids, steps, strict=True)
        if (whole_number(step) or 0) >= first
    ]


def compressed(failures: Sequence[LinkFailure]) -> bytes:
    """Compresses the first `FAILURES_OF_RECORD` failures, whose texts are mostly alike."""
    shortened = (
        replace(failure, error_message=failure.error_message[:LONGEST_ERROR])
        for failure in failures[:FAILURES_OF_RECORD]
    )
    return zlib.compress(json.dumps([astuple(failure) for failure in shortened]).encode())


def _failures_of(value: bytes | None) -> list[LinkFailure]:
    """Decompresses failures; returns an empty list if another program has written the field."""
    with suppress(ValueError, TypeError, RecursionError, zlib.error):
        return [LinkFailure(*texts) for texts in json.loads(zlib.decompress(value or b""))]
    return []


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
    """Stores the counts and the record of an operation. Renews the TTLs of all its keys.

    If the operation has stopped early, also marks it as cancelled, for the dashboard. Returns who
    cancelled the operation, empty if unknown; None if it is not cancelled.

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
        pipeline.expire(part_key(operation_id, "links"), LINKS_EXPIRY)
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
    """Stores the messages of the command that runs the operation."""
    kept = [message[:LONGEST_ERROR] for message in messages]
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
    """Keeps an operation for another hour, and its links for another day."""
    with redis_errors(client):
        client.expire(operation_key(operation_id), EXPIRY)
        client.expire(part_key(operation_id, "links"), LINKS_EXPIRY)


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
