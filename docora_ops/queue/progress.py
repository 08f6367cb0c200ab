"""Progress of bulk operations, in the hash that Docora's dashboard polls and cancels through."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import cast

from redis import Redis

from docora_ops.bulk import KeptFailures, KnownOperation, OperationState, Progress
from docora_ops.links import LinkFailure
from docora_ops.queue.audit_stream import ENTRIES_KEPT, AuditEntry, write_entry
from docora_ops.queue.redis_client import describe, redis_errors
from docora_ops.settings import Settings

EXPIRY = 3_600
"""Seconds that an operation is remembered after its last step."""
HEARTBEAT = 30
"""Seconds after which a runner makes itself heard, even if its batch takes longer."""
OWNER_PATIENCE = timedelta(seconds=120)
"""A running operation that has been silent for longer has lost its runner."""

FAILURES_KEPT = 10_000

_PREFIX = "docora:bulk:"
_SCAN_COUNT = 1_000
_READ_COUNT = 500

_FIELDS = ("total", "completed", "succeeded", "failed", "cancelled")

# The failures go by their numbers, so that a report that is made twice does no harm.
# ARGV: life, four counts, how many failures in all, the number of the first one given, how many are
# given, these, and what XADD is to be told. The stream, if any, is looked at before all is written:
# a script that breaks off undoes nothing. Where EXPIRE is not permitted, no operation is left that
# never ends.
_WRITE = """
if KEYS[3] then
  redis.call('XLEN', KEYS[3])
end
local is_new = redis.call('EXISTS', KEYS[1]) == 0
redis.call('HSETNX', KEYS[1], 'cancelled', 'false')
local expiry = redis.pcall('EXPIRE', KEYS[1], ARGV[1])
if type(expiry) == 'table' then
  if is_new then
    redis.call('DEL', KEYS[1])
  end
  return expiry
end
redis.call('HSET', KEYS[1], 'total', ARGV[2], 'completed', ARGV[3], 'succeeded', ARGV[4],
  'failed', ARGV[5])
if tonumber(ARGV[6]) > 0 then
  redis.call('HSET', KEYS[2], 'total', ARGV[6])
  for i = 1, tonumber(ARGV[8]) do
    redis.call('HSET', KEYS[2], ARGV[7] + i - 1, ARGV[8 + i])
  end
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
if KEYS[3] then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', unpack(ARGV, 9 + ARGV[8]))
end
return redis.call('HGET', KEYS[1], 'cancelled')
"""

_CANCEL = """
local counts = redis.call('HMGET', KEYS[1], 'total', 'completed')
if not counts[1] then
  return 'unknown' -- also where the dashboard has cancelled what it did not know
end
if (tonumber(counts[2]) or 0) >= (tonumber(counts[1]) or 0) then
  return 'finished'
end
if redis.call('HGET', KEYS[1], 'cancelled') == 'true' then
  return 'cancelled' -- and has been told by whoever did it
end
if KEYS[2] then
  redis.call('XLEN', KEYS[2])
end
redis.call('HSET', KEYS[1], 'cancelled', 'true')
if KEYS[2] then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', unpack(ARGV))
end
return 'cancelled'
"""


class CancelReply(StrEnum):
    """What came of a cancellation."""

    CANCELLED = "cancelled"
    FINISHED = "finished"
    UNKNOWN = "unknown"


def new_operation_id() -> str:
    """`bulk_` and 16 random hex digits."""
    return f"bulk_{os.urandom(8).hex()}"


class ProgressStore:
    """Reads and writes `docora:bulk:{operation_id}`. All calls raise RedisError."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._client = client
        self._where = describe(settings)
        self._write = client.register_script(_WRITE)
        self._cancel = client.register_script(_CANCEL)

    def write(
        self,
        progress: Progress,
        failures: Sequence[LinkFailure] = (),
        *,
        since: int = 0,
        audit: AuditEntry | None = None,
    ) -> bool:
        """Store the absolute counts and renew their life; returns whether it was cancelled.

        `progress.cancelled` is not written: cancelling may come from anywhere at any time.
        `failures`: all so far, of which those before the index `since` have been stored already.
        """
        new = [
            json.dumps([failure.job_id, failure.error]) for failure in failures[since:FAILURES_KEPT]
        ]
        keys = [operation_key(progress.operation_id), _failures_key(progress.operation_id)]
        with redis_errors(self._where):
            cancelled = self._write(
                keys=[*keys, audit.key] if audit else keys,
                args=[
                    EXPIRY,
                    progress.total,
                    progress.completed,
                    progress.succeeded,
                    progress.failed,
                    len(failures),
                    since,
                    len(new),
                    *new,
                    *_xadd_arguments(audit),
                ],
            )
        return cast("bytes", cancelled) == b"true"

    def read(self, operation_id: str) -> Progress | None:
        """The operation as it stands, or None when it is unknown or expired."""
        with redis_errors(self._where):
            values = cast(
                "list[bytes | None]", self._client.hmget(operation_key(operation_id), list(_FIELDS))
            )
        return _progress(operation_id, values)

    def read_failures(self, operation_id: str) -> KeptFailures:
        """The links that the operation has left undone so far, in the order of their failures."""
        with redis_errors(self._where):
            fields = cast("dict[bytes, bytes]", self._client.hgetall(_failures_key(operation_id)))
        total = _number(fields.pop(b"total", None))
        found = ((_number(name), _failure(value)) for name, value in fields.items())
        kept = {number: failure for number, failure in found if failure}
        return KeptFailures(tuple(kept[number] for number in sorted(kept)), total)

    def read_all(self) -> list[KnownOperation]:
        """Every operation that is still remembered, the one with the latest step first."""
        with redis_errors(self._where):
            keys = iter(
                # A set: SCAN may name a key twice.
                set(self._client.scan_iter(f"{_PREFIX}*", count=_SCAN_COUNT, _type="HASH"))
            )
            found: list[KnownOperation] = []
            while some := list(islice(keys, _READ_COUNT)):
                found += self._read_some(some)
        return sorted(
            found,
            key=lambda each: (
                timedelta.max if each.silence is None else each.silence,
                each.progress.operation_id,
            ),
        )

    def has_lost_its_runner(self, operation_id: str) -> bool:
        """Whether nothing has been heard of the operation's runner for long."""
        with redis_errors(self._where):
            found = next(self._read_some([operation_key(operation_id).encode()]), None)
        return found is not None and found.state is OperationState.OWNER_GONE

    def _read_some(self, keys: Sequence[bytes]) -> Iterator[KnownOperation]:
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key in keys:
                pipeline.hmget(key, list(_FIELDS))
                pipeline.pttl(key)
            (seconds, _), *replies = pipeline.execute()
        for key, values, left in zip(keys, replies[::2], replies[1::2], strict=True):
            operation_id = key.decode(errors="backslashreplace").removeprefix(_PREFIX)
            progress = _progress(operation_id, values)
            if progress is None:
                continue
            # It lives for an hour after each step: so what is left tells when that was.
            silence = timedelta(seconds=EXPIRY) - timedelta(milliseconds=left)
            known = left >= 0 and silence >= timedelta(0)
            yield KnownOperation(
                progress,
                _state(progress, silence if known else timedelta(0)),
                silence if known else None,
                datetime.fromtimestamp(seconds, UTC) - silence if known else None,
            )

    def cancel(self, operation_id: str, audit: AuditEntry | None = None) -> CancelReply:
        """Ask the runner to stop before its next step. Never creates an operation."""
        keys = [operation_key(operation_id)]
        with redis_errors(self._where):
            reply = self._cancel(
                keys=[*keys, audit.key] if audit else keys, args=_xadd_arguments(audit)
            )
        return CancelReply(cast("bytes", reply).decode())

    def record(self, audit: AuditEntry) -> None:
        """Write an entry of the audit trail by itself."""
        with redis_errors(self._where):
            write_entry(self._client, audit)


def operation_key(operation_id: str) -> str:
    """The hash of the operation."""
    return _PREFIX + operation_id


def _xadd_arguments(audit: AuditEntry | None) -> list[str | int]:
    return [ENTRIES_KEPT, "*", *audit.fields] if audit else []


def _failures_key(operation_id: str) -> str:
    # Not below the others' prefix: the dashboard would take it for an operation.
    return f"docora-ops:operation:{operation_id}:failures"


def _failure(value: bytes) -> LinkFailure | None:
    try:
        job_id, error = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return None
    return LinkFailure(str(job_id), str(error))


def _progress(operation_id: str, values: Sequence[bytes | None]) -> Progress | None:
    # The dashboard's cancel makes the hash of an operation that it does not know, without a total.
    if values[0] is None:
        return None
    total, completed, succeeded, failed = (_number(value) for value in values[:4])
    return Progress(operation_id, total, completed, succeeded, failed, values[4] == b"true")


def _state(progress: Progress, silence: timedelta) -> OperationState:
    if progress.finished:
        return OperationState.DONE
    if progress.cancelled:
        return OperationState.CANCELLED
    return OperationState.OWNER_GONE if silence > OWNER_PATIENCE else OperationState.RUNNING


def _number(value: bytes | None) -> int:
    return int(value) if value and value.isdigit() and len(value) < 20 else 0  # noqa: PLR2004
