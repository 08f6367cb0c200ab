"""The records of bulk operations, which are kept for a week. All functions raise RedisError."""

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from datetime import datetime
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline

from docora_ops.links import LinkFailure
from docora_ops.operations import OperationRecord
from docora_ops.queue.operation_fields import (
    FIELDS,
    LONGEST_ERROR,
    failure_of,
    operation_of,
    part_key,
)
from docora_ops.queue.redis_answers import (
    moment_of_timestamp,
    optional_text_of,
    text_of,
    whole_number,
)
from docora_ops.queue.redis_errors import redis_errors

RECORD_EXPIRY = 7 * 86_400  # seconds for which the record of an operation is kept
RECORDS_KEPT = 1_000
FAILURES_OF_RECORD = 1_000
_RECORDS = "docora-ops:operations"  # a stream of the ids of operations with a record
# Fields besides those of the operation; the last two are compressed.
_RECORD_FIELDS = ("started_at", "reason", "failures", "failed_links")
_LARGEST_FIELD = 16 * 2**20  # decompressed bytes: other programs may have written the field


def add_record(client: Redis, pipeline: Pipeline, operation_id: str) -> None:
    """Adds an operation to the list of records; if the list is full, deletes the oldest records.

    Reads the list at once, but only adds the writes to the pipeline.
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
    """Returns the ids of operations with a step since `since`, newest operation first."""
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
