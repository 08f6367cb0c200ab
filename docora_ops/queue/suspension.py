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
from docora_ops.queue.audit_stream import STREAM, change_entry
from docora_ops.queue.redis_client import answers_of, redis_errors
from docora_ops.queue.values import moment_of_timestamp, optional_text_of, text_of, whole_number

PAUSE = "docora-ops:pause"
"""The hash with the user, the reason and the time of the last `pause`. It expires with RQ's key."""
_FIELDS = ("suspended_at", "who", "reason")
_WORKER_FIELDS = ("birth", "death", "state", "queues")
_TOLERANCE = 1000
"""Milliseconds between the ends of the two keys, which are read one after the other."""

# XLEN comes first, so that a key of another type is refused before anything is changed; SET before
# the rest, since an old user lacks that permission. RQ's own `suspend` sends SET, then EXPIRE: if
# it is killed in between, the workers stay suspended for ever.
_SUSPEND = """
redis.call('XLEN', KEYS[3])
if ARGV[1] == '' then
  redis.call('SET', KEYS[1], 1)
else
  redis.call('SET', KEYS[1], 1, 'EX', ARGV[1])
end
local now = redis.call('TIME')[1]
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'suspended_at', now, 'who', ARGV[2], 'reason', ARGV[3])
if ARGV[1] ~= '' then
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
redis.call('XADD', unpack(ARGV, 4))
return now
"""

_RESUME = """
redis.call('XLEN', KEYS[3])
if redis.call('DEL', KEYS[1]) == 0 then
  return 0
end
redis.call('DEL', KEYS[2])
redis.call('XADD', unpack(ARGV))
return 1
"""


def read_suspension(client: Redis) -> Suspension | None:
    """Returns the order to take no jobs, None if there is none. Raises RedisError."""
    with redis_errors(client):
        pipeline = client.pipeline(transaction=False)
        pipeline.time()
        pipeline.pttl(WORKERS_SUSPENDED)
        pipeline.pttl(PAUSE)
        pipeline.hmget(PAUSE, list(_FIELDS))
        (seconds, microseconds), left, left_of_pause, found = answers_of(pipeline)
    if left == -2:  # noqa: PLR2004 - Redis: no such key
        return None
    has_end = left >= 0
    # The key may be one of `rq suspend`, which leaves our hash as it was.
    is_ours = has_end == (left_of_pause >= 0) and abs(left - left_of_pause) < _TOLERANCE
    at, who, reason = (found if is_ours else None) or [None] * len(_FIELDS)
    begin = whole_number(at)
    end = int(seconds + microseconds / 1e6 + left / 1000) if has_end else None
    return Suspension(
        suspended_at=moment_of_timestamp(begin) if begin else None,
        ends_at=None if end is None else moment_of_timestamp(end),
        remaining_seconds=ceil(left / 1000) if has_end else None,
        who=optional_text_of(who),
        reason=optional_text_of(reason),
    )


class WorkerSwitch:
    """Tells all workers of this Redis to take no jobs, or to go on. All calls raise RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._suspend = client.register_script(_SUSPEND)
        self._resume = client.register_script(_RESUME)

    def suspend(self, seconds: int | None, change: Change) -> Suspension:
        """Suspends the workers, for ever without `seconds`; replaces an earlier suspension."""
        details = ["" if seconds is None else seconds, change.who, change.reason or ""]
        with redis_errors(self._client):
            now = self._suspend(
                keys=[WORKERS_SUSPENDED, PAUSE, STREAM], args=[*details, *change_entry(change).xadd]
            )
        at = datetime.fromtimestamp(int(cast("bytes", now)), UTC)
        return Suspension(
            suspended_at=at,
            ends_at=None if seconds is None else at + timedelta(seconds=seconds),
            remaining_seconds=seconds,
            who=change.who,
            reason=change.reason,
        )

    def resume(self, change: Change) -> bool:
        """Ends the suspension; returns False, and writes nothing, if there is none."""
        with redis_errors(self._client):
            resumed = self._resume(
                keys=[WORKERS_SUSPENDED, PAUSE, STREAM], args=change_entry(change).xadd
            )
        return bool(resumed)

    def workers(self) -> list[AnyWorker]:
        """Reads the live workers of all queues of this Redis, ordered by name."""
        with redis_errors(self._client):
            keys = sorted(cast("set[bytes]", self._client.smembers(REDIS_WORKER_KEYS)))
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(key, list(_WORKER_FIELDS))
            rows = answers_of(pipeline)
        prefix = Worker.redis_worker_namespace_prefix
        workers = []
        for key, row in zip(keys, rows, strict=True):
            birth, death, state, queues = row or [None] * len(_WORKER_FIELDS)
            if birth is not None and death is None:
                name = text_of(key).removeprefix(prefix)
                names = text_of(queues or b"").split(",")
                workers.append(AnyWorker(name, optional_text_of(state), list(filter(None, names))))
        return workers
