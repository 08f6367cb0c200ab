"""Progress of bulk operations, in the hash that Docora's dashboard reads and cancels through."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from shlex import quote
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline

from docora_ops.audit import Change
from docora_ops.bulk import (
    KnownOperation,
    OperationRecord,
    OperationState,
    Progress,
    Results,
    StoppedBy,
)
from docora_ops.errors import NotFoundError, OperationFinishedError
from docora_ops.links import LinkFailure, batches
from docora_ops.queue.audit_stream import AuditEntry, add_entry, mapping_of, reason_of, results_of
from docora_ops.queue.redis_client import (
    Command,
    answers_of,
    moment_of_timestamp,
    optional_text_of,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)

EXPIRY = 3_600  # seconds for which an operation is kept after its last batch
HEARTBEAT = 30  # seconds after which a runner renews the TTL, even if its batch takes longer
OWNER_PATIENCE = 120  # seconds without a renewal after which an operation has lost its runner
HEARD = 60  # seconds for which an operation counts as at work since it was kept
FAILURES_KEPT = 10_000
MESSAGES_KEPT = 100
RECORD_EXPIRY = 7 * 86_400  # seconds for which the record of an operation is kept
RECORDS_KEPT = 1_000
FAILURES_OF_RECORD = 1_000

_PREFIX = "docora:bulk:"
_RECORDS = "docora-ops:operations"  # a stream of the ids of operations with a record
_AT_WORK = "docora-ops:at-work"  # a hash; its fields are ids of operations heard of lately
_ID_BYTES = 16
_SCAN_COUNT = 1_000
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_FIELDS = ("total", "completed", "succeeded", "failed", "cancelled")
# Further fields of an operation that docora-ops has started, as far as they are known.
_OUR_FIELDS = (
    *("who", "command", "selection", "stopped_by", "cancelled_by", "results", "messages"),
    "taken_over",
)
# Further fields of its record; the last two are compressed.
_RECORD_FIELDS = ("started_at", "reason", "failures", "failed_links")
_LONGEST_ERROR = 1_000  # characters, also of a message
_LARGEST_FIELD = 16 * 2**20  # bytes: others may have written any


@dataclass(frozen=True)
class SharedLinks:
    """The links that an operation at work has in common with a selection, by their row ids."""

    operation: KnownOperation
    started_at: datetime | None
    to_queue: set[str]  # their turn is still to come
    queued: set[str]


class ProgressStore:
    """Reads and writes `docora:bulk:{operation_id}`. All calls raise RedisError."""

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
        """Stores the counts of an operation and renews its TTL.

        Returns whether the operation is cancelled, and by whom if known. Does not write
        `progress.cancelled`, because others may cancel at any time.

        failures: all links that could not be queued so far.
        since: the number of failures that earlier calls have stored.
        change: who has started what; only given at the first call.
        failed_links: all links that have failed again; empty if none was added since the last call.
        """
        key = operation_key(progress.operation_id)
        failures_key = part_key(progress.operation_id, "failures")
        links_key = part_key(progress.operation_id, "links")
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
        if failures[since:FAILURES_OF_RECORD]:
            of_record["failures"] = _compressed(failures)
        if failed_links:
            of_record["failed_links"] = _compressed(failed_links)
        surplus: list[str] = []
        if change:
            with redis_errors(self._client):
                of_record["started_at"] = int(server_time(self._client) * 1000)
            of_record["reason"] = change.reason or ""
            surplus = self._record_ids()[RECORDS_KEPT - 1 :]
        record_key = part_key(progress.operation_id, "record")
        with self._transaction(audit) as pipeline:
            pipeline.hsetnx(key, "cancelled", "false")
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, EXPIRY)
            pipeline.hset(record_key, mapping=fields | of_record)
            pipeline.expire(record_key, RECORD_EXPIRY)
            if change:
                entry: dict[Any, Any] = {"operation_id": progress.operation_id}
                pipeline.xadd(_RECORDS, entry, maxlen=RECORDS_KEPT, approximate=False)
                pipeline.expire(_RECORDS, RECORD_EXPIRY)
            for each in surplus:
                pipeline.expire(part_key(each, "record"), 0)  # deletes it
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
        """Keeps the results of the operation's snapshots, with an audit entry."""
        fields: dict[Any, Any] = {"results": json.dumps(asdict(results))}
        of_record = fields | {"failed_links": _compressed(failed_links)}
        self._add(operation_id, fields, of_record, audit)

    def write_messages(self, operation_id: str, messages: Sequence[str]) -> None:
        """Keeps the last messages of the command that runs the operation."""
        kept = [each[:_LONGEST_ERROR] for each in messages[-MESSAGES_KEPT:]]
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
                # It tells the time of the last step; rounded down, that would be before the first.
                left = math.ceil(int(self._client.pttl(key)) / 1000)
                if left > 0:
                    pipeline.hset(key, mapping=mapping)
                    pipeline.expire(key, left)  # it may have expired just now
            pipeline.execute()

    def read(self, operation_id: str) -> KnownOperation:
        """Returns an operation with its state. Raises NotFoundError if unknown or expired."""
        for found in self._read([operation_key(operation_id).encode()]):
            return found
        raise NotFoundError(
            f"Operation not found or expired: {operation_id!r}",
            hint="ids look like bulk_0123456789abcdef; an operation is kept for an hour after its "
            "last step, and for a week in reports",
        )

    def read_all(self) -> list[KnownOperation]:
        """Returns every operation that has not expired, the one renewed last first."""
        with redis_errors(self._client):
            keys = set(self._client.scan_iter(f"{_PREFIX}*", count=_SCAN_COUNT, _type="HASH"))
        found = self._read(sorted(keys))
        return sorted(found, key=lambda each: each.last_step_at or _LONG_AGO, reverse=True)

    def _read(self, keys: Sequence[bytes]) -> list[KnownOperation]:
        with redis_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key in keys:
                pipeline.pttl(key)
                pipeline.hmget(key, [*_FIELDS, *_OUR_FIELDS])
            now, *replies = pipeline.execute()
        return [
            _operation(
                key.decode(errors="backslashreplace").removeprefix(_PREFIX),
                values,
                now,
                seconds_left=left / 1000,
                expiry=EXPIRY,
            )
            for key, left, values in zip(keys, replies[::2], replies[1::2], strict=True)
            if values[0] is not None  # the dashboard's cancel makes a hash without a total
        ]

    def find_records(self, since: datetime) -> list[str]:
        """Returns the ids of operations with a step since a moment, the newest operation first."""
        ids = self._record_ids()
        with redis_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for operation_id in ids:
                pipeline.pttl(part_key(operation_id, "record"))
            (seconds, microseconds), *left = pipeline.execute()
        age = seconds + microseconds / 1e6 - since.timestamp()
        first = RECORD_EXPIRY - age  # seconds that such a record has left
        return [
            operation_id
            for operation_id, milliseconds in zip(ids, left, strict=True)
            if milliseconds > 0 and milliseconds / 1000 >= first
        ]

    def read_record(self, operation_id: str) -> OperationRecord | None:
        """Returns the record of an operation, None if there is none, or it has expired."""
        key = part_key(operation_id, "record")
        with redis_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.pttl(key)
            pipeline.hmget(key, [*_FIELDS, *_OUR_FIELDS, *_RECORD_FIELDS])
            now, left, values = pipeline.execute()
        if values[0] is None:
            return None
        known, (started_at, reason, failures, failed_links) = values[:-4], values[-4:]
        operation = _operation(
            operation_id, known, now, seconds_left=left / 1000, expiry=RECORD_EXPIRY
        )
        began = whole_number(started_at)
        return OperationRecord(
            **vars(operation),
            started_at=None if began is None else moment_of_timestamp(began / 1000),
            reason=optional_text_of(reason),
            failures=_decompressed(failures),
            failed_links=_decompressed(failed_links),
        )

    def _record_ids(self) -> list[str]:
        """Returns the ids of the operations that have had a record, the newest first."""
        with redis_errors(self._client):
            entries = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]", self._client.xrevrange(_RECORDS)
            )
        return [text_of(fields.get(b"operation_id", b"")) for _, fields in entries]

    def read_failures(self, operation_id: str) -> tuple[list[LinkFailure], int]:
        """Returns the first failures of the operation, in their order, and the number of all."""
        with redis_errors(self._client):
            stored = cast(
                "dict[bytes, bytes]", self._client.hgetall(part_key(operation_id, "failures"))
            )
        total = whole_number(stored.pop(b"total", None)) or 0
        kept: dict[int, LinkFailure] = {}
        for number, value in stored.items():
            with suppress(ValueError, TypeError, RecursionError):  # others may write anything
                kept[int(number)] = _failure(json.loads(value))
        return [kept[number] for number in sorted(kept)], total

    def has_links(self, operation_id: str) -> bool:
        """Tells whether the links that the operation has claimed are known."""
        with redis_errors(self._client):
            return bool(self._client.exists(part_key(operation_id, "links")))

    def read_links(self, operation_id: str, since: int) -> list[str]:
        """Returns the row ids of claimed links from `since` on. An id may be there twice."""
        with redis_errors(self._client):
            found = self._client.getrange(part_key(operation_id, "links"), since * _ID_BYTES, -1)
        return list(_unpacked(cast("bytes", found)))

    def add_links(self, operation_id: str, ids: Iterable[str]) -> None:
        """Keeps further links of an operation, by their row ids."""
        execute: Callable[..., object] = self._client.execute_command
        with redis_errors(self._client):
            for command in commands_to_add_links(operation_id, ids):
                execute(*command)

    def renew(self, operation: KnownOperation) -> None:
        """Keeps the links of an operation, and the counts of one that has ended, for another hour.

        Leaves the counts alone for half an hour, because their TTL tells when the last step was.
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
        """Asks the runner to stop after its current batches. Returns False if already cancelled.

        Raises NotFoundError if the operation is unknown, OperationFinishedError if it has finished.
        """
        operation, key = self.read(operation_id), operation_key(operation_id)
        if operation.finished:
            raise OperationFinishedError(
                f"operation {operation_id!r} has finished: nothing is left to cancel",
                hint=f"docora-ops progress {quote(operation_id)} shows what it did",
            )
        if operation.cancelled:
            return False
        fields: dict[Any, Any] = {"cancelled": "true"}
        if cancelled_by:
            fields["cancelled_by"] = cancelled_by
        with self._transaction(audit) as pipeline:
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, EXPIRY)  # it may have expired just now
            pipeline.execute()
        return True

    # Operations at work: others are told of them, and `schedule` leaves links to some of them

    def keep_at_work(self, operation_id: str, selected: Iterable[str]) -> None:
        """Makes the operation and its links, by row id, known for the next `HEARD` seconds."""
        key = part_key(operation_id, "selection")
        with redis_errors(self._client):
            if not self._client.expire(key, HEARD):
                self._client.set(key, _packed(selected), ex=HEARD)
            self._client.hset(_AT_WORK, operation_id, "")
            self._client.expire(_AT_WORK, HEARD)

    def end_work(self, operation_id: str) -> None:
        """Forgets the links of the operation, which no longer counts as at work."""
        with redis_errors(self._client):
            self._client.expire(part_key(operation_id, "selection"), 0)  # deletes it

    def read_at_work(self, ids: Collection[str]) -> list[SharedLinks]:
        """Returns the operations at work that have some of these links, given by their row ids.

        Those of Docora's dashboard keep no links, and are not known here.
        """
        with redis_errors(self._client):
            known = cast("dict[bytes, bytes]", self._client.hgetall(_AT_WORK))
            if not known:
                return []
            operation_ids = sorted(map(text_of, known))
            pipeline = self._client.pipeline(transaction=False)
            for operation_id in operation_ids:
                pipeline.get(part_key(operation_id, "selection"))
                pipeline.get(part_key(operation_id, "links"))
                pipeline.hmget(part_key(operation_id, "record"), ["started_at"])
            answers = answers_of(pipeline)
        parts = dict(zip(operation_ids, batches(answers, 3), strict=True))
        shared = []
        for operation in self._read([operation_key(each).encode() for each in operation_ids]):
            selected, links, [began] = parts[operation.operation_id]
            common = {id_ for id_ in _unpacked(selected or b"") if id_ in ids}
            if not common or operation.cancelled:
                continue
            queued = {id_ for id_ in _unpacked(links or b"") if id_ in common}
            milliseconds = whole_number(began)
            started = None if milliseconds is None else moment_of_timestamp(milliseconds / 1000)
            shared.append(SharedLinks(operation, started, common - queued, queued))
        return shared

    @contextmanager
    def _transaction(self, audit: AuditEntry | None) -> Iterator[Pipeline]:
        """Begins a transaction. If one of its commands is not permitted, Redis does nothing."""
        with redis_errors(self._client), self._client.pipeline() as pipeline:
            if audit:
                self._client.xlen(str(audit[1]))  # refused if the key is of another type
                add_entry(pipeline, audit)
            yield pipeline


def commands_to_add_links(operation_id: str, ids: Iterable[str]) -> list[Command]:
    """Returns the commands that keep further links of an operation, by their row ids."""
    key = part_key(operation_id, "links")
    return [("APPEND", key, _packed(ids)), ("EXPIRE", key, EXPIRY)]


def operation_key(operation_id: str) -> str:
    """Returns the key of the operation's hash."""
    return _PREFIX + operation_id


def part_key(operation_id: str, part: str) -> str:
    """Returns a key of an operation.

    part: `failures`; `record`, which is kept for a week; `links`, the row ids that the operation
        has claimed; or `selection`, all row ids of one at work. A row id has 16 bytes.
    """
    # Not with the prefix of operations: the dashboard would take the key for one.
    return f"docora-ops:operation:{operation_id}:{part}"


def _packed(ids: Iterable[str]) -> bytes:
    return bytes.fromhex("".join(ids).replace("-", ""))


def _unpacked(packed: bytes) -> Iterator[str]:
    text = packed.hex()  # faster than a UUID for each id
    for start in range(0, len(text) - 2 * _ID_BYTES + 1, 2 * _ID_BYTES):
        id_ = text[start : start + 2 * _ID_BYTES]
        yield f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}"


def _operation(
    operation_id: str,
    values: Sequence[bytes | None],
    time: tuple[int, int],
    *,
    seconds_left: float,
    expiry: int,
) -> KnownOperation:
    """Makes an operation of the values of `_FIELDS` and `_OUR_FIELDS`.

    time: the answer of TIME. seconds_left: the rest of the TTL, which each step sets to `expiry`.
    """
    now = time[0] + time[1] / 1e6
    total, completed, succeeded, failed = (whole_number(each) or 0 for each in values[:4])
    *ours, taken_over = values[5:]
    texts = map(optional_text_of, ours)
    who, command, selection, stopped_by, cancelled_by, results, messages = texts
    # Each step sets the same TTL, so the rest of it tells the time of the step.
    at = now - expiry + seconds_left if 0 <= seconds_left <= expiry else None
    is_cancelled, state = values[4] == b"true", OperationState.RUNNING
    if completed >= total:
        state = OperationState.DONE
    elif is_cancelled:
        state = OperationState.CANCELLED
    elif at is not None and now - at > OWNER_PATIENCE:
        state = OperationState.OWNER_GONE
    return KnownOperation(
        operation_id=operation_id,
        total=total,
        completed=completed,
        put_to_work=succeeded,
        not_queued=failed,
        cancelled=is_cancelled,
        taken_over=whole_number(taken_over) or 0,
        state=state,
        last_step_at=None if at is None else moment_of_timestamp(at),
        last_step_seconds=None if at is None else int(now - at),
        who=who,
        command=command,
        selection=mapping_of(selection),
        stopped_by=reason_of(stopped_by),
        cancelled_by=cancelled_by,
        results=results_of(results),
        messages=_texts_of(messages),
    )


def _texts_of(text: str | None) -> list[str]:
    """Parses a list of texts; returns no texts for anything else, which others may write."""
    found = mapping_of(f'{{"texts": {text}}}').get("texts")
    return found if isinstance(found, list) else []


def _compressed(failures: Sequence[LinkFailure]) -> bytes:
    """Returns the first failures in few bytes, because most of their texts are alike."""
    some = (
        replace(each, error_message=each.error_message[:_LONGEST_ERROR])
        for each in failures[:FAILURES_OF_RECORD]
    )
    return zlib.compress(json.dumps([astuple(each) for each in some]).encode())


def _decompressed(value: bytes | None) -> list[LinkFailure]:
    """Returns the failures; leaves out anything else, which others may write."""
    found: list[LinkFailure] = []
    with suppress(ValueError, TypeError, RecursionError, zlib.error):
        for each in json.loads(zlib.decompressobj().decompress(value or b"", _LARGEST_FIELD)):
            with suppress(ValueError, TypeError):
                found.append(_failure(each))
    return found


def _failure(texts: Sequence[object]) -> LinkFailure:
    """Makes a failure of the texts of its tuple. Raises TypeError, ValueError."""
    *known, app_name, repository_name = texts
    names = (name and str(name) for name in (app_name, repository_name))
    return LinkFailure(*map(str, known), *names)
