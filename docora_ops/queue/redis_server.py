"""What Redis is like, and who is at work on the queue. Only reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis
from rq import Queue
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import utcparse
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import BullmqQueue
from docora_ops.queue.audit_stream import STREAM
from docora_ops.queue.bullmq import read_bullmq
from docora_ops.queue.progress import operation_key
from docora_ops.queue.redis_client import describe, explain_refused_write, redis_errors
from docora_ops.settings import Settings

_TRIAL = "docora-ops:trial"
"""The end of the names of keys that never exist."""
_CLOCK_GRAIN = 2
"""Seconds by which moments of INFO may be off."""

# Refused where it is not permitted, and without effect where it is: there is no such key, what it
# is given is malformed, or the key holds something else.
_TRY_WRITES = """
local calls = {
  {'DEL', KEYS[1]}, {'HSET', KEYS[1], 'x', 'x', 'x'}, {'LREM', KEYS[1], 0, 'x'},
  {'LSET', KEYS[1], 0, 'x'}, {'PERSIST', KEYS[1]}, {'ZREM', KEYS[1], 'x'},
  {'XLEN', KEYS[3]}, {'XADD', KEYS[3], 'x', 'x', 'x'}, {'EXPIRE', KEYS[4], 1},
}
local queues = redis.pcall('SMEMBERS', KEYS[2])
if queues[1] then
  table.insert(calls, {'HSETNX', KEYS[2], 'x', 'x'})
  table.insert(calls, {'LPUSH', KEYS[2], 'x'})
  table.insert(calls, {'RPUSH', KEYS[2], 'x'})
  table.insert(calls, {'SADD', KEYS[2], queues[1]})
end
local refusals = {}
for _, call in ipairs(calls) do
  local reply = redis.pcall(unpack(call))
  local text = type(reply) == 'table' and reply.err or ''
  if string.find(text, 'NOPERM') or string.find(text, 'ACL failure') then
    error(text, 0)
  end
  table.insert(refusals, text)
end
return refusals
"""


@dataclass(frozen=True)
class RedisServer:
    """The server, as far as it concerns us; None and 0 stand for what it does not tell."""

    product: str
    """Name and version; of Valkey its own."""
    version: str
    """The version of Redis that it is compatible with."""
    is_replica: bool
    eviction_policy: str | None
    used_memory: int
    maxmemory: int
    system_memory: int
    appends_to_file: bool
    last_append_failed: bool
    last_snapshot_failed: bool
    has_saved_snapshot: bool
    unsaved_changes: int
    uptime: int
    """Seconds."""

    @classmethod
    def from_info(cls, info: Mapping[str, Any], now: float) -> RedisServer:
        """From what INFO says, at this moment of the server's clock."""

        def number(name: str) -> int:
            value = info.get(name, 0)
            return int(value) if isinstance(value, int | float) else 0

        version = str(info.get("redis_version", ""))
        valkey = info.get("valkey_version")
        uptime = number("uptime_in_seconds")
        # At its start a server counts as having saved just then.
        last_save = number("rdb_last_save_time")
        return cls(
            product=f"Valkey {valkey}" if valkey else f"Redis {version}",
            version=version,
            is_replica=info.get("role", "master") != "master",
            eviction_policy=info.get("maxmemory_policy"),
            used_memory=number("used_memory"),
            maxmemory=number("maxmemory"),
            system_memory=number("total_system_memory"),
            appends_to_file=number("aof_enabled") != 0,
            last_append_failed=info.get("aof_last_write_status", "ok") != "ok",
            last_snapshot_failed=info.get("rdb_last_bgsave_status", "ok") != "ok",
            has_saved_snapshot=last_save > now - uptime + _CLOCK_GRAIN,
            unsaved_changes=number("rdb_changes_since_last_save"),
            uptime=uptime,
        )


@dataclass(frozen=True)
class QueueHealth:
    """The queue and who is at work on it, at one moment."""

    waiting: int
    head_waits_for: float | None
    """Seconds since the job at the head of the list was queued; None if that is not known."""
    workers: int
    is_suspended: bool
    """RQ has told the workers to take no jobs."""
    has_scheduler: bool
    first_delayed_in: float | None
    """Seconds until the first of the delayed jobs is due, below 0 if it is overdue."""
    bullmq: BullmqQueue


class QueueInspector:
    """Looks at Redis and at the queue without a change. All calls raise RedisError."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._client = client
        self._where = describe(settings)
        self._name = settings.queue_name
        self._try_writes = client.register_script(_TRY_WRITES)

    def only_reads(self) -> bool:
        """Returns whether our user may write nothing: a user for monitoring.

        What it tries has no effect, since the keys do not exist.
        """
        key = f"{Queue(self._name, connection=self._client).key}:{_TRIAL}"
        with redis_errors(self._where), self._client.pipeline(transaction=False) as pipeline:
            pipeline.delete(key)
            pipeline.persist(key)
            pipeline.expire(operation_key(_TRIAL), 1)
            replies = pipeline.execute(raise_on_error=False)
        return all(isinstance(reply, redis.exceptions.NoPermissionError) for reply in replies)

    def connect(self) -> tuple[str, str] | None:
        """Raises RedisError unless the server answers, and permits what changes need.

        Returns why it takes no writes at present, and what to do, or None if it takes them.
        """
        queue = Queue(self._name, connection=self._client)
        with redis_errors(self._where):
            self._client.ping()
            refusals = self._try_writes(
                [f"{queue.key}:{_TRIAL}", queue.redis_queues_keys, STREAM, operation_key(_TRIAL)]
            )
        texts = (text.decode(errors="replace") for text in cast("list[bytes]", refusals))
        return next(filter(None, map(explain_refused_write, texts)), None)

    def server(self) -> RedisServer | None:
        """What the server says of itself; None if our user may not ask."""
        with redis_errors(self._where):
            try:
                info = self._client.info()
            except redis.exceptions.NoPermissionError:
                return None
            return RedisServer.from_info(info, self._now())

    def clock(self) -> float:
        """The server's clock, in seconds since 1970."""
        with redis_errors(self._where):
            return self._now()

    def queue(self) -> QueueHealth:
        """The queue as it stands."""
        queue = Queue(self._name, connection=self._client)
        with redis_errors(self._where), self._client.pipeline(transaction=False) as pipeline:
            pipeline.llen(queue.key)
            pipeline.lindex(queue.key, 0)
            pipeline.smembers(WORKERS_BY_QUEUE_KEY % self._name)
            pipeline.exists(WORKERS_SUSPENDED)
            pipeline.exists(RQScheduler.get_locking_key(self._name))
            pipeline.zrange(
                ScheduledJobRegistry.key_template.format(self._name), 0, 0, withscores=True
            )
            (
                waiting,
                head,
                worker_keys,
                is_suspended,
                has_scheduler,
                first_scheduled,
            ) = pipeline.execute()
            workers = self._client.exists(*sorted(worker_keys)) if worker_keys else 0
            now = self._now()
            queued_at = self._queued_at(head) if head else None
            return QueueHealth(
                waiting=waiting,
                head_waits_for=queued_at and now - queued_at,
                workers=workers,
                is_suspended=bool(is_suspended),
                has_scheduler=bool(has_scheduler),
                first_delayed_in=first_scheduled[0][1] - now if first_scheduled else None,
                bullmq=read_bullmq(self._client),
            )

    def _queued_at(self, job_id: bytes) -> float | None:
        key = Job.redis_job_namespace_prefix.encode() + job_id
        try:
            value = cast("bytes | None", self._client.hget(key, "enqueued_at"))
            return utcparse(value.decode()).timestamp() if value else None
        except redis.exceptions.NoPermissionError:
            raise
        except (redis.ResponseError, ValueError):
            return None

    def _now(self) -> float:
        """By the server's clock."""
        seconds, microseconds = self._client.time()
        return float(seconds) + microseconds / 1e6
