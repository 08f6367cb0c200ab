"""Reads bulk operations: hashes that Docora's dashboard polls, and our records, kept for a week.

All functions that take a client raise RedisError.
"""

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, fields, replace
from datetime import UTC, datetime
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline

from docora_ops.errors import NotFoundError
from docora_ops.links import LinkFailure, batches
from docora_ops.operations import (
    KnownOperation,
    OperationRecord,
    OperationState,
    Results,
    StoppedBy,
)
from docora_ops.queue.redis_client import (
    mapping_of,
    moment_of_timestamp,
    optional_text_of,
    read_hashes,
    redis_errors,
    text_of,
    whole_number,
)

EXPIRY = 3_600  # seconds for which an operation is kept after its last batch
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

    part: `record`, which is kept for a week; `links`, the row ids of the claimed links; or
        `selection`, the row ids of all links while the operation is at work.
    """
    # With `PREFIX`, the dashboard would take the key for an operation.
    return f"docora-ops:operation:{operation_id}:{part}"


def read_operation(
    client: Redis, operation_id: str, *, of_the_week: bool = False
) -> OperationRecord:
    """Returns an operation. Raises NotFoundError if it is unknown or expired.

    of_the_week: also return an operation of which only the record is left.
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


def results_of(text: str | None) -> Results | None:
    """Parses the results of an operation's snapshots; returns None if there are none."""
    counts = mapping_of(text)
    numbers = [counts.get(field.name) for field in fields(Results)]
    known = [number for number in numbers if isinstance(number, int)]
    return Results(*known) if len(known) == len(numbers) else None


def stopped_by_of(text: str | None) -> StoppedBy | None:
    """Parses why an operation left links unchanged; returns None for any other text."""
    with suppress(ValueError):
        return StoppedBy(text or "")
    return None


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
    """Returns the ids of operations with a step since `since`, most recently started first."""
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
