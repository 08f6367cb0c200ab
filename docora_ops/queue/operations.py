"""The record of operations: who changed what, when, why and with which result.

Each operation is a hash, an entry in a sorted set, both kept for 30 days, and the row ids of its
links in a list, kept for 7 days. Bulk operations also keep the hash that Docora's dashboard polls
and cancels them by. All functions raise RedisError.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from secrets import token_hex
from typing import Any

from redis import Redis
from redis.client import Pipeline

from docora_ops.links import Link
from docora_ops.queue.connection import (
    moment_of,
    number_of,
    redis_errors,
    replies,
    server_time,
    text_of,
)

EXPIRY = 30 * 86_400  # seconds
LINKS_EXPIRY = 7 * 86_400
BULK_EXPIRY = 3_600  # of Docora's own hash, after the last batch
ABANDONED_AFTER = 120  # seconds without a step
MOST_FAILURES = 100
_INDEX = "docora-ops:operations"
_LAST_PASS = "docora-ops:schedule"  # noqa: S105 - the Unix time of the last pass of `schedule`
_PASS_EXPIRY = 7 * 86_400


class OperationState(StrEnum):
    """Where an operation stands."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"  # or interrupted
    ABANDONED = "abandoned"  # its process was killed: the same command finishes the rest


@dataclass(frozen=True)
class Failure:
    """A link that could not be queued, or whose snapshot failed; and why.

    app_name, repository_name: None if unknown.
    """

    job_id: str
    error_message: str
    app_name: str | None = None
    repository_name: str | None = None

    @classmethod
    def of(cls, link: Link | None, error_message: str) -> "Failure":
        """Returns the failure of a link."""
        if link is None:
            return cls("", error_message)
        return cls(link.job_id, error_message, link.app_name, link.repository_name)


@dataclass(frozen=True)
class Operation:
    """One change: of one link, in bulk, or a cancellation.

    action: `retry`, `resync`, `repair`, `schedule` or `cancel`.
    user: who ran the command, as `user@host`.
    target: the links in words, such as `Acme Search ← octo/api` or `--error 502`.
    succeeded: links put to work, or left alone because they were at work or no longer qualified.
    failed: links that could not be queued; `failures` has the first 100 of them.
    states: the number of links by outcome.
    """

    operation_id: str
    action: str
    user: str
    command: str
    target: str
    reason: str | None = None
    state: OperationState = OperationState.RUNNING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    total: int = 0
    completed: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: bool = False
    cancelled_by: str | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    failures: Sequence[Failure] = ()

    @property
    def is_bulk(self) -> bool:
        """Tells whether Docora's dashboard shows the operation."""
        return self.operation_id.startswith("bulk_")


def new_id(*, is_bulk: bool) -> str:
    """Returns a new id: `bulk_` or `op_`, and 16 hex digits."""
    return f"{'bulk' if is_bulk else 'op'}_{token_hex(8)}"


def begin(client: Redis, operation: Operation) -> Operation:
    """Records the start of an operation. Returns it with its time by the clock of Redis."""
    with redis_errors(client):
        now = server_time(client)
        pipeline = client.pipeline()
        pipeline.zadd(_INDEX, {operation.operation_id: now})
        pipeline.zremrangebyscore(_INDEX, 0, now - EXPIRY)
        pipeline.expire(_INDEX, EXPIRY)
        _write(pipeline, replace(operation, started_at=moment_of(now)), now)
        pipeline.execute()
    return replace(operation, started_at=moment_of(now))


def step(client: Redis, operation: Operation, ids: Sequence[str]) -> bool:
    """Records the progress and the row ids of further links. Tells whether somebody cancelled."""
    with redis_errors(client):
        now = server_time(client)
        pipeline = client.pipeline()
        _write(pipeline, operation, now)
        if ids:
            pipeline.rpush(_links_key(operation.operation_id), *ids)
            pipeline.expire(_links_key(operation.operation_id), LINKS_EXPIRY)
        pipeline.hget(_bulk_key(operation.operation_id), "cancelled")
        return bool(pipeline.execute()[-1] == b"true")


def end(client: Redis, operation: Operation) -> Operation:
    """Records the end of an operation. Returns it with its time."""
    with redis_errors(client):
        now = server_time(client)
        ended = replace(operation, ended_at=moment_of(now))
        pipeline = client.pipeline()
        _write(pipeline, ended, now)
        pipeline.execute()
    return ended


def _write(pipeline: Pipeline, operation: Operation, now: float) -> None:
    failures = [vars(failure) for failure in operation.failures[:MOST_FAILURES]]
    values: dict[Any, Any] = {
        "action": operation.action,
        "user": operation.user,
        "command": operation.command,
        "target": operation.target,
        "reason": operation.reason or "",
        "started_at": operation.started_at.timestamp() if operation.started_at else "",
        "ended_at": operation.ended_at.timestamp() if operation.ended_at else "",
        "stepped_at": now,
        "total": operation.total,
        "completed": operation.completed,
        "succeeded": operation.succeeded,
        "failed": operation.failed,
        "states": json.dumps(dict(operation.states)),
        "failures": json.dumps(failures),
    }
    if operation.cancelled:
        values["cancelled"] = "true"
    key = _key(operation.operation_id)
    pipeline.hset(key, mapping=values)
    pipeline.expire(key, EXPIRY)
    if operation.is_bulk:
        shared = ("total", "completed", "succeeded", "failed")
        bulk: dict[Any, Any] = {name: values[name] for name in shared}
        if operation.cancelled:
            bulk["cancelled"] = "true"
        pipeline.hset(_bulk_key(operation.operation_id), mapping=bulk)
        pipeline.hsetnx(_bulk_key(operation.operation_id), "cancelled", "false")
        pipeline.expire(_bulk_key(operation.operation_id), BULK_EXPIRY)


def cancel(client: Redis, operation: Operation, user: str) -> None:
    """Asks the runner of a bulk operation to stop: it looks after each batch."""
    with redis_errors(client):
        pipeline = client.pipeline()
        pipeline.hset(_bulk_key(operation.operation_id), "cancelled", "true")
        pipeline.expire(_bulk_key(operation.operation_id), BULK_EXPIRY)
        pipeline.hset(_key(operation.operation_id), "cancelled_by", user)
        pipeline.expire(_key(operation.operation_id), EXPIRY)
        pipeline.execute()


def read(client: Redis, operation_id: str) -> Operation | None:
    """Returns an operation, also one of Docora's dashboard; None if it is unknown or expired."""
    return next(iter(_read(client, [operation_id])), None)


def read_recent(client: Redis, limit: int) -> list[Operation]:
    """Returns the last operations, newest first, with those of Docora's dashboard at the end."""
    with redis_errors(client):
        ids = [text_of(id_) for id_ in client.zrange(_INDEX, 0, limit - 1, desc=True)]
        keys = client.scan_iter("docora:bulk:*", count=1000, _type="HASH")
        bulk_ids = sorted(text_of(key).rpartition(":")[2] for key in keys)
    of_dashboard = [id_ for id_ in bulk_ids if id_ not in ids]
    known = _read(client, [*ids, *of_dashboard])
    return sorted(known, key=lambda known: known.started_at is None)[:limit]


def read_links(client: Redis, operation_id: str) -> list[str]:
    """Returns the row ids of the links of an operation that are recorded so far."""
    with redis_errors(client):
        ids = client.lrange(_links_key(operation_id), 0, -1)
    return [text_of(id_) for id_ in ids]


def record_pass(client: Redis) -> None:
    """Records that a pass of `schedule` has ended now."""
    with redis_errors(client):
        client.set(_LAST_PASS, int(server_time(client)), ex=_PASS_EXPIRY)


def last_pass(client: Redis) -> datetime | None:
    """Returns when the last pass of `schedule` ended; None if there was none for a week."""
    with redis_errors(client):
        return moment_of(number_of(client.get(_LAST_PASS)))


def _read(client: Redis, ids: Sequence[str]) -> list[Operation]:
    if not ids:
        return []
    with redis_errors(client):
        pipeline = client.pipeline(transaction=False)
        for id_ in ids:
            pipeline.hgetall(_key(id_))
            pipeline.hgetall(_bulk_key(id_))
        answers = replies(pipeline)
        now = server_time(client)
    known = zip(ids, answers[::2], answers[1::2], strict=True)
    operations = (_operation_of(id_, record or {}, bulk or {}, now) for id_, record, bulk in known)
    return [operation for operation in operations if operation]


def _operation_of(
    id_: str, record: Mapping[bytes, bytes], bulk: Mapping[bytes, bytes], now: float
) -> Operation | None:
    values = {text_of(name): text_of(value) for name, value in {**record, **bulk}.items()}
    if "total" not in values:  # unknown, or a cancellation by the dashboard of an expired one
        return None

    def number(name: str) -> int:
        return number_of(values.get(name, "").encode()) or 0

    def moment(name: str) -> float | None:
        try:
            return float(values[name])
        except (KeyError, ValueError):
            return None

    is_cancelled = values.get("cancelled") == "true"
    ended_at, stepped_at = moment("ended_at"), moment("stepped_at")
    state = OperationState.RUNNING
    if number("completed") >= number("total"):
        state = OperationState.DONE
    elif is_cancelled:
        state = OperationState.CANCELLED
    elif ended_at or (stepped_at and now - stepped_at > ABANDONED_AFTER):
        state = OperationState.ABANDONED
    return Operation(
        operation_id=id_,
        action=values.get("action", "bulk"),
        user=values.get("user") or "Docora's dashboard",
        command=values.get("command", ""),
        target=values.get("target", ""),
        reason=values.get("reason") or None,
        state=state,
        started_at=moment_of(moment("started_at")),
        ended_at=moment_of(ended_at),
        total=number("total"),
        completed=number("completed"),
        succeeded=number("succeeded"),
        failed=number("failed"),
        cancelled=is_cancelled,
        cancelled_by=values.get("cancelled_by") or None,
        states=_json(values.get("states"), {}),
        failures=[Failure(**failure) for failure in _json(values.get("failures"), [])],
    )


def _json(text: str | None, default: Any) -> Any:
    return json.loads(text) if text else default


def _key(operation_id: str) -> str:
    return f"docora-ops:operation:{operation_id}"


def _links_key(operation_id: str) -> str:
    return f"docora-ops:operation:{operation_id}:links"


def _bulk_key(operation_id: str) -> str:
    return f"docora:bulk:{operation_id}"
