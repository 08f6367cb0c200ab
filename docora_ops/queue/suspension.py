"""RQ's order to all workers of this Redis to take no jobs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import cast

from redis import Redis
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import Worker
from rq.worker_registration import REDIS_WORKER_KEYS

from docora_ops.audit import Change
from docora_ops.jobs import AnyWorker, Suspension
from docora_ops.queue.audit_stream import add_entry, change_entry, mapping_of
from docora_ops.queue.redis_client import (
    answers_of,
    moment_of_timestamp,
    optional_text_of,
    redis_errors,
    server_time,
    text_of,
)

_WORKER_FIELDS = ("birth", "death", "state", "queues")


def suspend(client: Redis, seconds: int | None, change: Change) -> Suspension:
    """Suspends all workers for `seconds`, or until `resume` if None. Raises RedisError.

    Replaces an earlier suspension, and writes the audit entry.
    """
    with redis_errors(client), client.pipeline() as pipeline:
        at = int(server_time(client))
        # RQ only asks whether its key exists: the value says since when, by whom and why. One SET,
        # since RQ's own `suspend` sends SET, then EXPIRE: killed in between, it suspends for ever.
        value = {"suspended_at": at, "who": change.who, "reason": change.reason or ""}
        pipeline.set(WORKERS_SUSPENDED, json.dumps(value), ex=seconds)
        add_entry(pipeline, change_entry(change))
        pipeline.execute()
    begin = datetime.fromtimestamp(at, UTC)
    end = None if seconds is None else begin + timedelta(seconds=seconds)
    return Suspension(begin, end, seconds, change.who, change.reason)


def resume(client: Redis, change: Change) -> None:
    """Ends the suspension, and writes the audit entry. Raises RedisError."""
    with redis_errors(client), client.pipeline() as pipeline:
        pipeline.delete(WORKERS_SUSPENDED)
        add_entry(pipeline, change_entry(change))
        pipeline.execute()


def read_suspension(client: Redis) -> Suspension | None:
    """Returns the order to take no jobs, None if there is none. Raises RedisError."""
    with redis_errors(client):
        pipeline = client.pipeline(transaction=False)
        pipeline.time()
        pipeline.pttl(WORKERS_SUSPENDED)
        pipeline.get(WORKERS_SUSPENDED)
        (seconds, microseconds), left, value = answers_of(pipeline)
    if left == -2:  # noqa: PLR2004 - Redis: no such key
        return None
    details = mapping_of(text_of(value or b""))  # none after `rq suspend`
    begin, who, reason = (details.get(name) for name in ("suspended_at", "who", "reason"))
    end = int(seconds + microseconds / 1e6 + left / 1000) if left >= 0 else None
    return Suspension(
        suspended_at=moment_of_timestamp(begin) if isinstance(begin, int) else None,
        ends_at=None if end is None else moment_of_timestamp(end),
        remaining_seconds=ceil(left / 1000) if left >= 0 else None,
        who=str(who) if who else None,
        reason=str(reason) if reason else None,
    )


def live_workers(client: Redis) -> list[AnyWorker]:
    """Reads the live workers of all queues of this Redis, ordered by name. Raises RedisError."""
    with redis_errors(client):
        keys = sorted(cast("set[bytes]", client.smembers(REDIS_WORKER_KEYS)))
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(key, list(_WORKER_FIELDS))
        rows = answers_of(pipeline)
    workers = []
    for key, row in zip(keys, rows, strict=True):
        birth, death, state, queues = row or [None] * len(_WORKER_FIELDS)
        if birth is not None and death is None:
            name = text_of(key).removeprefix(Worker.redis_worker_namespace_prefix)
            names = text_of(queues or b"").split(",")
            workers.append(AnyWorker(name, optional_text_of(state), list(filter(None, names))))
    return workers
