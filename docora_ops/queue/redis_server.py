"""Checking the Redis server and its permissions. Only reads."""

from collections.abc import Callable, Mapping
from typing import Any

import redis

from docora_ops.jobs import Backend
from docora_ops.queue.audit_stream import STREAM
from docora_ops.queue.backend import LIST
from docora_ops.queue.progress import operation_key, part_key
from docora_ops.queue.redis_client import explain_refused_write, redis_errors, server_time

_TRIAL = "docora-ops:trial"  # ends the names of keys that never exist


def read_redis_server(client: redis.Redis) -> Mapping[str, Any] | None:
    """Returns the answer of INFO, None if it is not permitted. Raises RedisError."""
    with redis_errors(client):
        try:
            return client.info()
        except redis.exceptions.NoPermissionError:
            return None


def read_clock(client: redis.Redis) -> float:
    """Returns the time of the server's clock, in seconds since 1970. Raises RedisError."""
    with redis_errors(client):
        return server_time(client)


def try_commands(client: redis.Redis, backend: Backend) -> tuple[str, str] | None:
    """Checks that the server answers and permits all commands. Raises RedisError.

    Returns why it refuses writes at present, and what to do, or None if it takes writes.
    """
    operation, links, job = operation_key(_TRIAL), part_key(_TRIAL, "links"), f"{LIST}:{_TRIAL}"
    calls: list[tuple[str | int, ...]] = [
        *(("HSET", operation, "x", "x"), ("HSETNX", operation, "x", "x"), ("EXPIRE", operation, 1)),
        *(("SET", links, ""), ("GETRANGE", links, 0, 0)),
        *(("XADD", STREAM, "*", "x", "x"), ("XLEN", STREAM)),
    ]
    if backend is Backend.RQ:
        calls += [
            *(("DEL", job), ("HSET", job, "x", "x"), ("PERSIST", job), ("SADD", job, "x")),
            *(("LREM", job, 0, "x"), ("LSET", job, 0, "x"), ("LPOS", job, "x")),
            *(("LPUSH", job, "x"), ("RPUSH", job, "x"), ("APPEND", links, "x")),
            *(("ZREM", job, "x"), ("ZSCORE", job, "x")),
        ]
    try:
        with client.pipeline() as pipeline:
            pipeline.ping()
            pipeline.execute()
            # Redis refuses what is not permitted before it begins with the transaction. The last
            # command is malformed, so that nothing is done at all.
            add: Callable[..., object] = pipeline.execute_command
            for call in calls:
                add(*call)
            pipeline.exists()
            pipeline.execute()
    except redis.RedisError as error:
        if "wrong number of arguments" in str(error):
            return None
        if refusal := explain_refused_write(error):
            return refusal
        with redis_errors(client):
            raise
    return None
