"""Checking the Redis server and the queue. Only reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import redis
from rq import Queue

from docora_ops.jobs import QUEUE_NAME, Backend
from docora_ops.queue.audit_stream import STREAM
from docora_ops.queue.progress import operation_key
from docora_ops.queue.redis_client import explain_refused_write, redis_errors, server_time

_TRIAL = "docora-ops:trial"
"""The end of the names of keys that never exist."""
_CLOCK_GRAIN = 2
"""Seconds by which moments of INFO may be off."""

# Tries each command that changes need, without effect: the key is absent or of another type, or the
# arguments are malformed. RQ's keys are given only if jobs are pushed.
_TRY_WRITES = """
local operation, stream, list, queues_key = unpack(KEYS)
local calls = {
  {'HSET', operation, 'x', 'x', 'x'}, {'EXPIRE', operation, 1}, {'GETRANGE', operation, 0, 0},
  {'SET', operation, 'x', 'NX', 'XX'}, {'XLEN', stream}, {'XADD', stream, 'x', 'x', 'x'},
}
if list then
  for _, call in ipairs({
    {'DEL', list}, {'HSET', list, 'x', 'x', 'x'}, {'LREM', list, 0, 'x'}, {'LSET', list, 0, 'x'},
    {'PERSIST', list}, {'ZREM', list, 'x'}, {'LPOS', list, 'x'},
  }) do
    table.insert(calls, call)
  end
end
local queues = queues_key and redis.pcall('SMEMBERS', queues_key) or {}
if queues[1] then
  table.insert(calls, {'APPEND', queues_key, 'x'})
  table.insert(calls, {'HSETNX', queues_key, 'x', 'x'})
  table.insert(calls, {'LPUSH', queues_key, 'x'})
  table.insert(calls, {'RPUSH', queues_key, 'x'})
  table.insert(calls, {'SADD', queues_key, queues[1]})
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
    """The state of the server. Unknown values are None or 0."""

    product: str
    version: str  # the compatible version of Redis
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
    uptime: int  # seconds

    @classmethod
    def from_info(cls, info: Mapping[str, Any], now: float) -> Self:
        """Reads the answer of INFO; `now`: the time of the server's clock."""

        def number(name: str) -> int:
            value = info.get(name, 0)
            return int(value) if isinstance(value, int | float) else 0

        version = str(info.get("redis_version", ""))
        valkey = info.get("valkey_version")
        uptime = number("uptime_in_seconds")
        # A server that starts sets the time of the last save to that of its start.
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


class QueueInspector:
    """Checks Redis and the queue. All calls raise RedisError."""

    def __init__(self, client: redis.Redis, backend: Backend) -> None:
        self._client = client
        self._is_rq = backend is Backend.RQ
        self._queue = Queue(QUEUE_NAME, connection=client)
        self._try_writes = client.register_script(_TRY_WRITES)

    def connect(self) -> tuple[str, str] | None:
        """Checks that the server answers and permits all commands. Raises RedisError.

        Returns why it refuses writes at present, and what to do, or None if it takes writes.
        """
        with redis_errors(self._client):
            self._client.ping()
            keys = [operation_key(_TRIAL), STREAM]
            if self._is_rq:
                keys += [f"{self._queue.key}:{_TRIAL}", self._queue.redis_queues_keys]
            refusals = self._try_writes(keys)
        texts = (text.decode(errors="replace") for text in cast("list[bytes]", refusals))
        return next(filter(None, map(explain_refused_write, texts)), None)

    def server(self) -> RedisServer | None:
        """Reads the state of the server; None if INFO is not permitted."""
        with redis_errors(self._client):
            try:
                info = self._client.info()
            except redis.exceptions.NoPermissionError:
                return None
            return RedisServer.from_info(info, server_time(self._client))

    def clock(self) -> float:
        """Returns the time of the server's clock, in seconds since 1970."""
        with redis_errors(self._client):
            return server_time(self._client)
