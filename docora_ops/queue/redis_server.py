"""Checks the Redis server and the user's permissions. Only reads."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import redis

from docora_ops.queue.audit_stream import STREAM
from docora_ops.queue.operation_records import operation_key, part_key
from docora_ops.queue.redis_client import (
    Command,
    explain_refused_write,
    redis_errors,
    require_acceptance,
    server_time,
)
from docora_ops.queue.rq_keys import LIST

_TRIAL = "docora-ops:trial"  # suffix of keys that never exist


def read_redis_server(client: redis.Redis) -> Mapping[str, Any] | None:
    """Returns the reply to INFO; None if the user may not run it. Raises RedisError."""
    with redis_errors(client):
        try:
            return client.info()
        except redis.exceptions.NoPermissionError:
            return None


def measure(client: redis.Redis) -> tuple[float, float]:
    """Returns the latency of the server and its Unix time, in seconds. Raises RedisError."""
    with redis_errors(client):
        client.time()  # connects, which takes several round trips
        began = time.monotonic()
        clock = server_time(client)
        return time.monotonic() - began, clock


def read_clock(client: redis.Redis) -> datetime:
    """Returns the time in UTC by the server's clock. Raises RedisError."""
    with redis_errors(client):
        return datetime.fromtimestamp(server_time(client), UTC)


def try_commands(
    client: redis.Redis, of_push: Sequence[tuple[str | int, ...]]
) -> tuple[str, str] | None:
    """Checks that the server answers, and permits the commands of a change. Raises RedisError.

    Returns why the server currently refuses writes, and a hint; None if it accepts writes.

    of_push: the commands of a push with their arguments, but without the key.
    """
    operation, links, job = operation_key(_TRIAL), part_key(_TRIAL, "links"), f"{LIST}:{_TRIAL}"
    commands: list[Command] = [
        *(("HSET", operation, "x", "x"), ("HSETNX", operation, "x", "x"), ("EXPIRE", operation, 1)),
        *(("SET", links, ""), ("GETRANGE", links, 0, 0)),
        ("XADD", STREAM, "*", "x", "x"),
        *((command, job, *arguments) for command, *arguments in of_push),
    ]
    with redis_errors(client):
        try:
            client.ping()  # also refused if Redis can't save its data
            require_acceptance(client, *commands)
        except redis.RedisError as error:
            if refusal := explain_refused_write(error):
                return refusal
            raise
    return None
