"""RQ's order to all workers of this Redis to take no jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil
from typing import cast

from redis import Redis
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import Worker
from rq.worker_registration import REDIS_WORKER_KEYS

from docora_ops.audit import Change
from docora_ops.jobs import AnyWorker, Suspension
from docora_ops.queue.audit_stream import STREAM, change_entry, mapping_of
from docora_ops.queue.redis_client import answers_of, redis_errors
from docora_ops.queue.values import moment_of_timestamp, optional_text_of, text_of

_WORKER_FIELDS = ("birth", "death", "state", "queues")

# RQ only asks whether its key exists: the value says since when, by whom and why. One SET, since
# RQ's own `suspend` sends SET, then EXPIRE: killed in between, it suspends the workers for ever.
# XLEN comes first, so that a stream of another type is refused before anything is changed.
_SUSPEND = """
redis.call('XLEN', KEYS[2])
local now = redis.call('TIME')[1]
local value = cjson.encode({suspended_at = tonumber(now), who = ARGV[2], reason = ARGV[3]})
if ARGV[1] == '' then
  redis.call('SET', KEYS[1], value)
else
  redis.call('SET', KEYS[1], value, 'EX', ARGV[1])
end
redis.call('XADD', unpack(ARGV, 4))
return now
"""

_RESUME = """
redis.call('XLEN', KEYS[2])
if redis.call('DEL', KEYS[1]) == 0 then
  return 0
end
redis.call('XADD', unpack(ARGV))
return 1
"""


def suspend(client: Redis, seconds: int | None, change: Change) -> Suspension:
    """Suspends all workers for `seconds`, or until `resume` if None. Raises RedisError.

    Replaces an earlier suspension, and writes the audit entry.
    """
    details = ["" if seconds is None else seconds, change.who, change.reason or ""]
    with redis_errors(client):
        now = client.register_script(_SUSPEND)(
            keys=[WORKERS_SUSPENDED, STREAM], args=[*details, *change_entry(change).xadd]
        )
    at = datetime.fromtimestamp(int(cast("bytes", now)), UTC)
    end = None if seconds is None else at + timedelta(seconds=seconds)
    return Suspension(at, end, seconds, change.who, change.reason)


def resume(client: Redis, change: Change) -> bool:
    """Ends the suspension, and writes the audit entry. Raises RedisError.

    Returns False, and writes nothing, if there is none.
    """
    with redis_errors(client):
        return bool(
            client.register_script(_RESUME)(
                keys=[WORKERS_SUSPENDED, STREAM], args=change_entry(change).xadd
            )
        )


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
