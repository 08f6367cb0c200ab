"""The hashes of bulk operations: their keys and fields, and the records kept for a week.

All functions that take a client raise RedisError.
"""

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, fields, replace
from datetime import datetime
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline

from docora_ops.links import LinkFailure
from docora_ops.operations import (
    KnownOperation,
    OperationRecord,
    OperationState,
    Results,
    StoppedBy,
)
from docora_ops.queue.redis_answers import (
    mapping_of,
    moment_of_timestamp,
    optional_text_of,
    text_of,
    whole_number,
)
from docora_ops.queue.redis_client import redis_errors

EXPIRY = 3_600  # seconds for which an operation is kept after its last batch
OWNER_PATIENCE = 120  # seconds without a renewal after which an operation counts as abandoned
LONGEST_ERROR = 1_000  # characters of an error or a message
PREFIX = "docora:bulk:"
# Docora's dashboard reads the first five. docora-ops adds the others to its own operations.
FIELDS = (
    *("total", "completed", "succeeded", "failed", "cancelled", "taken_over"),
    *("who", "command", "selection", "stopped_by", "cancelled_by", "results", "messages"),
)
RECORD_EXPIRY = 7 * 86_400  # seconds for which the record of an operation is kept
RECORDS_KEPT = 1_000
FAILURES_OF_RECORD = 1_000
_RECORDS = "docora-ops:operations"  # a stream of the ids of operations with a record
# Fields besides those of the operation; the last two are compressed.
_RECORD_FIELDS = ("started_at", "reason", "failures", "failed_links")
_LARGEST_FIELD = 16 * 2**20  # decompressed bytes: other programs may have written the field


def operation_key(operation_id: str) -> str:
    """Returns the key of the operation's hash."""
    return PREFIX + operation_id


def part_key(operation_id: str, part: str) -> str:
    """Returns the key of a part of an operation.

    part: `record`, which is kept for a week; `links`, the row ids of the claimed links; or
        `selection`, the row ids of all links while the operation is at work.
    """
    # With `PREFIX`, the dashboard would take the key for an operation.
    return f"docora-ops:operation:{operation_id}:{part}"


def operation_of(
    operation_id: str,
    values: Sequence[bytes | None],
    time: tuple[int, int],
    *,
    seconds_left: float,
    expiry: int,
) -> KnownOperation:
    """Returns the operation that a hash describes.

    values: the values of `FIELDS`.
    time: the reply of Redis to TIME.
    seconds_left: the remaining TTL of the hash, in seconds.
    expiry: the TTL that each step sets, in seconds.
    """
    now = time[0] + time[1] / 1e6
    numbers = (whole_number(value) or 0 for value in [*values[:4], values[5]])
    total, completed, put_to_work, not_queued, taken_over = numbers
    texts = map(optional_text_of, values[6:])
    who, command, selection, stopped_by, cancelled_by, results, messages = texts
    step = now - expiry + seconds_left if 0 <= seconds_left <= expiry else None
    is_cancelled, state = values[4] == b"true", OperationState.RUNNING
    if completed >= total:
        state = OperationState.DONE
    elif is_cancelled:
        state = OperationState.CANCELLED
    elif step is not None and now - step > OWNER_PATIENCE:
        state = OperationState.OWNER_GONE
    return KnownOperation(
        operation_id=operation_id,
        total=total,
        completed=completed,
        put_to_work=put_to_work,
        not_queued=not_queued,
        cancelled=is_cancelled,
        taken_over=taken_over,
        state=state,
        last_step_at=None if step is None else moment_of_timestamp(step),
        last_step_seconds=None if step is None else int(now - step),
        who=who,
        command=command,
        selection=mapping_of(selection),
        stopped_by=stopped_by_of(stopped_by),
        cancelled_by=cancelled_by,
        results=results_of(results),
        messages=_texts_of(messages),
    )


def failure_of(texts: Sequence[object]) -> LinkFailure:
    """Parses a failure that was stored as a list. Raises TypeError, ValueError."""
    *known, app_name, repository_name = texts
    names = (name and str(name) for name in (app_name, repository_name))
    return LinkFailure(*map(str, known), *names)


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
    with redis_errors(client), client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for operation_id in operation_ids:
            pipeline.pttl(part_key(operation_id, "record"))
        (seconds, microseconds), *left = pipeline.execute()
    age = seconds + microseconds / 1e6 - since.timestamp()
    least = RECORD_EXPIRY - age  # remaining TTL, in seconds, after a step at `since`
    return [
        operation_id
        for operation_id, milliseconds in zip(operation_ids, left, strict=True)
        if milliseconds > 0 and milliseconds / 1000 >= least
    ]


def read_record(client: Redis, operation_id: str) -> OperationRecord | None:
    """Returns the record of an operation; None if it does not exist or has expired."""
    key = part_key(operation_id, "record")
    with redis_errors(client), client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.pttl(key)
        pipeline.hmget(key, [*FIELDS, *_RECORD_FIELDS])
        now, left, values = pipeline.execute()
    if values[0] is None:
        return None
    started_at, reason, failures, failed_links = values[-4:]
    operation = operation_of(
        operation_id, values[:-4], now, seconds_left=left / 1000, expiry=RECORD_EXPIRY
    )
    began = whole_number(started_at)
    return OperationRecord(
        **vars(operation),
        started_at=None if began is None else moment_of_timestamp(began / 1000),
        reason=optional_text_of(reason),
        failures=_decompressed(failures),
        failed_links=_decompressed(failed_links),
    )


def compressed(failures: Sequence[LinkFailure]) -> bytes:
    """Compresses the first `FAILURES_OF_RECORD` failures, whose texts are mostly alike."""
    shortened = (
        replace(failure, error_message=failure.error_message[:LONGEST_ERROR])
        for failure in failures[:FAILURES_OF_RECORD]
    )
    return zlib.compress(json.dumps([astuple(failure) for failure in shortened]).encode())


def _decompressed(value: bytes | None) -> list[LinkFailure]:
    """Decompresses failures; omits what other programs may have written."""
    failures: list[LinkFailure] = []
    with suppress(ValueError, TypeError, RecursionError, zlib.error):
        for texts in json.loads(zlib.decompressobj().decompress(value or b"", _LARGEST_FIELD)):
            with suppress(ValueError, TypeError):
                failures.append(failure_of(texts))
    return failures
