"""The progress of bulk operations, in the hashes that Docora's dashboard reads and cancels."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from shlex import quote
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline

from docora_ops.errors import NotFoundError, OperationFinishedError
from docora_ops.links import LinkFailure
from docora_ops.operations import (
    Change,
    KnownOperation,
    OperationState,
    Progress,
    Results,
    StoppedBy,
)
from docora_ops.queue.audit_stream import AuditEntry, add_entry
from docora_ops.queue.operation_fields import (
    EXPIRY,
    FIELDS,
    LONGEST_ERROR,
    PREFIX,
    failure_of,
    operation_key,
    operation_of,
    part_key,
)
from docora_ops.queue.operation_records import (
    RECORD_EXPIRY,
    RECORDS_KEPT,
    add_record,
    compressed,
    fields_of_failures,
    record_ids,
)
from docora_ops.queue.redis_answers import optional_text_of
from docora_ops.queue.redis_client import server_time
from docora_ops.queue.redis_errors import redis_errors

HEARTBEAT = 30  # seconds after which a runner renews the TTL, even in the middle of a batch
FAILURES_KEPT = 10_000
MESSAGES_KEPT = 100
_SCAN_COUNT = 1_000
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class ProgressStore:
    """Reads and writes `docora:bulk:{operation_id}`. All methods raise RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def write(
        self,
        progress: Progress,
        failures: Sequence[LinkFailure] = (),
        *,
        since: int = 0,
        change: Change | None = None,
        stopped_by: StoppedBy | None = None,
        cancelled_by: str | None = None,
        results: Results | None = None,
        failed_links: Sequence[LinkFailure] = (),
        audit: AuditEntry | None = None,
    ) -> tuple[bool, str | None]:
        """Stores the counts of an operation and its record, and renews their TTLs.

        Returns whether the operation is cancelled, and who cancelled it if known. Does not write
        `progress.cancelled`, because others may cancel at any time.

        failures: all links that could not be queued so far.
        since: the number of failures that earlier calls have stored.
        change: the change that started the operation; only on the first call.
        failed_links: all links that failed again; empty if none did since the last call.
        """
        operation_id = progress.operation_id
        fields: dict[Any, Any] = {
            "total": progress.total,
            "completed": progress.completed,
            "succeeded": progress.put_to_work,
            "failed": progress.not_queued,
        }
        if progress.taken_over:
            fields["taken_over"] = progress.taken_over
        if change:
            selection = json.dumps(change.selection)
            fields |= {"who": change.who, "command": change.command, "selection": selection}
        if stopped_by:
            fields["stopped_by"] = stopped_by
        if results:
            fields["results"] = json.dumps(asdict(results))
        of_record: dict[Any, Any] = {"cancelled": "true" if stopped_by else "false"}
        if cancelled_by:
            of_record["cancelled_by"] = cancelled_by
        of_record |= fields_of_failures(failures, since, failed_links)
        surplus: list[str] = []
        if change:
            with redis_errors(self._client):
                of_record["started_at"] = int(server_time(self._client) * 1000)
            of_record["reason"] = change.reason or ""
            surplus = record_ids(self._client)[RECORDS_KEPT - 1 :]  # the oldest records
        key, record_key = operation_key(operation_id), part_key(operation_id, "record")
        links_key, failures_key = (part_key(operation_id, part) for part in ("links", "failures"))
        with self._transaction(audit) as pipeline:
            pipeline.hsetnx(key, "cancelled", "false")
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, EXPIRY)
            pipeline.hset(record_key, mapping=fields | of_record)
            pipeline.expire(record_key, RECORD_EXPIRY)
            if change:
                add_record(pipeline, operation_id, surplus)
            pipeline.set(links_key, "", ex=EXPIRY, nx=True)
            pipeline.expire(links_key, EXPIRY)
            if failures:
                new = enumerate(failures[since:FAILURES_KEPT], since)
                stored: dict[Any, Any] = {n: json.dumps(astuple(failure)) for n, failure in new}
                pipeline.hset(failures_key, mapping=stored | {"total": len(failures)})
                pipeline.expire(failures_key, EXPIRY)
            pipeline.hmget(key, ["cancelled", "cancelled_by"])
            cancelled, by = pipeline.execute()[-1]
        return cancelled == b"true", optional_text_of(by)

    def write_results(
        self,
        operation_id: str,
        results: Results,
        failed_links: Sequence[LinkFailure] = (),
        audit: AuditEntry | None = None,
    ) -> None:
        """Stores the results of the operation's snapshots and, if given, an audit entry."""
        fields: dict[Any, Any] = {"results": json.dumps(asdict(results))}
        of_record = fields | {"failed_links": compressed(failed_links)}
        self._add(operation_id, fields, of_record, audit)

    def write_messages(self, operation_id: str, messages: Sequence[str]) -> None:
        """Stores the last messages of the command that runs the operation."""
        kept = [message[:LONGEST_ERROR] for message in messages[-MESSAGES_KEPT:]]
        fields: dict[Any, Any] = {"messages": json.dumps(kept)}
        self._add(operation_id, fields, fields)

    def _add(
        self,
        operation_id: str,
        fields: dict[Any, Any],
        of_record: dict[Any, Any],
        audit: AuditEntry | None = None,
    ) -> None:
        """Adds fields to an operation and its record, unless they have expired."""
        record_key = part_key(operation_id, "record")
        with self._transaction(audit) as pipeline:
            for key, mapping in ((operation_key(operation_id), fields), (record_key, of_record)):
                # The time of the last step is derived from the TTL, which must not be shortened.
                left = math.ceil(int(self._client.pttl(key)) / 1000)
                if left > 0:
                    pipeline.hset(key, mapping=mapping)
                    pipeline.expire(key, left)  # the key may have expired just now
            pipeline.execute()

    def read(self, operation_id: str) -> KnownOperation:
        """Returns an operation. Raises NotFoundError if it is unknown or expired."""
        for operation in read_operations(self._client, [operation_key(operation_id)]):
            return operation
        raise NotFoundError(
            f"Operation not found or expired: {operation_id!r}",
            hint="ids look like bulk_0123456789abcdef; an operation is kept for an hour after its "
            "last step, and for a week in reports",
        )

    def read_all(self) -> list[KnownOperation]:
        """Returns every operation that has not expired, most recent step first."""
        with redis_errors(self._client):
            keys = set(self._client.scan_iter(f"{PREFIX}*", count=_SCAN_COUNT, _type="HASH"))
        operations = read_operations(self._client, sorted(keys))
        return sorted(operations, key=lambda known: known.last_step_at or _LONG_AGO, reverse=True)

    def read_failures(self, operation_id: str) -> list[LinkFailure]:
        """Returns the first failures of the operation, in order."""
        with redis_errors(self._client):
            stored = cast(
                "dict[bytes, bytes]", self._client.hgetall(part_key(operation_id, "failures"))
            )
        kept: dict[int, LinkFailure] = {}
        for number, value in stored.items():
            # Skips `total`, and whatever other programs have written.
            with suppress(ValueError, TypeError, RecursionError):
                kept[int(number)] = failure_of(json.loads(value))
        return [kept[number] for number in sorted(kept)]

    def renew(self, operation: KnownOperation) -> None:
        """Keeps an operation's links and, if it has ended, its counts for another hour.

        Does not renew the counts in the first half hour, because the time of the last step is
        derived from their TTL.
        """
        is_old = (operation.last_step_seconds or 0) > EXPIRY / 2
        has_ended = operation.state in {OperationState.DONE, OperationState.CANCELLED}
        operation_id = operation.operation_id
        keys = [part_key(operation_id, part) for part in ("failures", "links")]
        if has_ended and is_old:
            keys.append(operation_key(operation_id))
        with redis_errors(self._client):
            for key in keys:
                self._client.expire(key, EXPIRY)

    def cancel(
        self,
        operation_id: str,
        audit: AuditEntry | None = None,
        *,
        cancelled_by: str | None = None,
    ) -> bool:
        """Asks the operation to stop after its current batch. Returns False if already cancelled.

        Raises NotFoundError if the operation is unknown, OperationFinishedError if it has finished.
        """
        operation, key = self.read(operation_id), operation_key(operation_id)
        if operation.finished:
            raise OperationFinishedError(
                f"operation {operation_id!r} has finished: nothing is left to cancel",
                hint=f"docora-ops operations {quote(operation_id)} shows what it did",
            )
        if operation.cancelled:
            return False
        fields: dict[Any, Any] = {"cancelled": "true"}
        if cancelled_by:
            fields["cancelled_by"] = cancelled_by
        with self._transaction(audit) as pipeline:
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, EXPIRY)  # the key may have expired just now
            pipeline.execute()
        return True

    @contextmanager
    def _transaction(self, audit: AuditEntry | None) -> Iterator[Pipeline]:
        """Yields a pipeline: if one of its commands is not permitted, Redis executes none."""
        with redis_errors(self._client), self._client.pipeline() as pipeline:
            if audit:
                self._client.xlen(str(audit[1]))  # fails if the key is of another type
                add_entry(pipeline, audit)
            yield pipeline


def read_operations(client: Redis, keys: Sequence[bytes | str]) -> list[KnownOperation]:
    """Returns the operations with these keys, except expired ones. Raises RedisError."""
    with redis_errors(client), client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for key in keys:
            pipeline.pttl(key)
            pipeline.hmget(key, FIELDS)
        now, *replies = pipeline.execute()
    names = (
        key.decode(errors="backslashreplace") if isinstance(key, bytes) else key for key in keys
    )
    return [
        operation_of(
            name.removeprefix(PREFIX), values, now, seconds_left=left / 1000, expiry=EXPIRY
        )
        for name, left, values in zip(names, replies[::2], replies[1::2], strict=True)
        if values[0] is not None  # the dashboard's cancel makes a hash without a total
    ]
