"""The record of operations: who changed what, when, why and with which result.

Each operation is a hash, an entry in a sorted set, both kept for 30 days, and the row ids of its
links in a list, kept for 7 days. Bulk operations also keep the hash that Docora's dashboard polls
and cancels them by. All functions raise RedisError.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from redis import Redis

from docora_ops.links import Outcome, State
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
ABANDONED_AFTER = 120  # seconds without progress
MOST_FAILURES = 100
_INDEX = "docora-ops:operations"
_KEY = "docora-ops:operation:{}"
_LINKS_KEY = "docora-ops:operation:{}:links"
_BULK_KEY = "docora:bulk:{}"
_LAST_PASS = "docora-ops:schedule"  # noqa: S105 - the Unix time of the last pass of `schedule`
_PASS_EXPIRY = 7 * 86_400


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - when this host did what


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
    started_at: datetime | None = field(default_factory=_now)
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

    def after(self, outcomes: Sequence[Outcome]) -> Self:
        """Returns the operation with further outcomes counted. After the last one, it is done."""
        failures = [
            Failure(link.job_id, outcome.detail, link.app_name, link.repository_name)
            if (link := outcome.link)
            else Failure("", outcome.detail)
            for outcome in outcomes
            if outcome.state is State.NOT_QUEUED
        ]
        completed = self.completed + len(outcomes)
        is_done = completed >= self.total
        return replace(
            self,
            state=OperationState.DONE if is_done else self.state,
            ended_at=_now() if is_done else None,
            completed=completed,
            succeeded=self.succeeded + len(outcomes) - len(failures),
            failed=self.failed + len(failures),
            states=Counter(self.states) + Counter(outcome.state.value for outcome in outcomes),
            failures=[*self.failures, *failures][:MOST_FAILURES],
        )

    def stopped(self) -> Self:
        """Returns the operation as it ends before its last link."""
        state = OperationState.CANCELLED
        return replace(self, cancelled=True, state=state, ended_at=_now())


def save(client: Redis, operation: Operation, ids: Sequence[str] = ()) -> bool:
    """Records an operation as it stands. Tells whether somebody has cancelled it.

    ids: the row ids of further links, for `--follow`.
    """
    id_, ended_at = operation.operation_id, operation.ended_at
    started_at = operation.started_at or _now()
    counts: dict[Any, Any] = {
        "total": operation.total,
        "completed": operation.completed,
        "succeeded": operation.succeeded,
        "failed": operation.failed,
    }
    if operation.cancelled:
        counts["cancelled"] = "true"
    values = counts | {
        "action": operation.action,
        "user": operation.user,
        "command": operation.command,
        "target": operation.target,
        "reason": operation.reason or "",
        "started_at": started_at.isoformat(),
        "ended_at": ended_at.isoformat() if ended_at else "",
        "states": json.dumps(operation.states),
        "failures": json.dumps([vars(failure) for failure in operation.failures]),
    }
    with redis_errors(client):
        pipeline = client.pipeline()
        pipeline.hset(_KEY.format(id_), mapping=values)
        pipeline.expire(_KEY.format(id_), EXPIRY)
        pipeline.zadd(_INDEX, {id_: started_at.timestamp()})
        pipeline.zremrangebyscore(_INDEX, 0, started_at.timestamp() - EXPIRY)
        pipeline.expire(_INDEX, EXPIRY)
        if ids:
            pipeline.rpush(_LINKS_KEY.format(id_), *ids)
            pipeline.expire(_LINKS_KEY.format(id_), LINKS_EXPIRY)
        if operation.is_bulk:
            pipeline.hset(_BULK_KEY.format(id_), mapping=counts)
            pipeline.hsetnx(_BULK_KEY.format(id_), "cancelled", "false")
            pipeline.expire(_BULK_KEY.format(id_), BULK_EXPIRY)
        pipeline.hget(_BULK_KEY.format(id_), "cancelled")
        return bool(pipeline.execute()[-1] == b"true")


def cancel(client: Redis, operation: Operation, user: str) -> None:
    """Asks the runner of a bulk operation to stop: it looks after each batch."""
    with redis_errors(client):
        pipeline = client.pipeline()
        pipeline.hset(_BULK_KEY.format(operation.operation_id), "cancelled", "true")
        pipeline.expire(_BULK_KEY.format(operation.operation_id), BULK_EXPIRY)
        pipeline.hset(_KEY.format(operation.operation_id), "cancelled_by", user)
        pipeline.expire(_KEY.format(operation.operation_id), EXPIRY)
        pipeline.execute()


def read(client: Redis, operation_id: str) -> Operation | None:
    """Returns an operation, also one of Docora's dashboard; None if it is unknown or expired."""
    return next(iter(_read(client, [operation_id])), None)


def read_recent(client: Redis, limit: int) -> list[Operation]:
    """Returns the last operations of docora-ops, newest first."""
    with redis_errors(client):
        ids = client.zrange(_INDEX, 0, limit - 1, desc=True)
    return _read(client, [text_of(id_) for id_ in ids])


def read_of_dashboard(client: Redis) -> list[Operation]:
    """Returns the operations of Docora's dashboard, which end up in no index: reads all keys."""
    with redis_errors(client):
        keys = client.scan_iter(_BULK_KEY.format("*"), count=10_000, _type="HASH")
        ids = sorted(text_of(key).rpartition(":")[2] for key in keys)
    return [operation for operation in _read(client, ids) if operation.started_at is None]


def read_links(client: Redis, operation_id: str) -> list[str]:
    """Returns the row ids of the links of an operation that are recorded so far."""
    with redis_errors(client):
        ids = client.lrange(_LINKS_KEY.format(operation_id), 0, -1)
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
    with redis_errors(client):
        pipeline = client.pipeline(transaction=False)
        for id_ in ids:
            pipeline.hgetall(_KEY.format(id_))
            pipeline.hgetall(_BULK_KEY.format(id_))
            pipeline.ttl(_KEY.format(id_))
        answers = iter(replies(pipeline))
    operations = []
    for id_ in ids:
        record, bulk, ttl = next(answers) or {}, next(answers) or {}, next(answers)
        idle = EXPIRY - ttl if record else 0
        with suppress(ValueError, TypeError):  # another version or program wrote it: leave it out
            operations.append(_operation_of(id_, {**record, **bulk}, idle))
    return [operation for operation in operations if operation]


def _operation_of(id_: str, fields: Mapping[bytes, bytes], idle: float) -> Operation | None:
    """Returns the operation that Redis holds. `idle`: seconds since it was last recorded."""
    values = {text_of(name): text_of(value) for name, value in fields.items()}
    if "total" not in values:  # unknown, or a cancellation by the dashboard of an expired one
        return None
    counts = {
        name: number_of(values.get(name, "").encode()) or 0
        for name in ("total", "completed", "succeeded", "failed")
    }
    started_at, ended_at = values.get("started_at"), values.get("ended_at")
    is_cancelled = values.get("cancelled") == "true"
    state = OperationState.RUNNING
    if counts["completed"] >= counts["total"]:
        state = OperationState.DONE
    elif is_cancelled:
        state = OperationState.CANCELLED
    elif idle > ABANDONED_AFTER:
        state = OperationState.ABANDONED
    return Operation(
        operation_id=id_,
        action=values.get("action", "bulk"),
        user=values.get("user") or "Docora's dashboard",
        command=values.get("command", ""),
        target=values.get("target", ""),
        reason=values.get("reason") or None,
        state=state,
        started_at=datetime.fromisoformat(started_at) if started_at else None,
        ended_at=datetime.fromisoformat(ended_at) if ended_at else None,
        cancelled=is_cancelled,
        cancelled_by=values.get("cancelled_by") or None,
        states=json.loads(values.get("states") or "{}"),
        failures=[Failure(**failure) for failure in json.loads(values.get("failures") or "[]")],
        **counts,
    )
