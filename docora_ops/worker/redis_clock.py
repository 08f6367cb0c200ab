"""The time by Redis's clock, which all workers share; the clock of a host may be wrong."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from redis import Redis

from docora_ops.queue.redis_client import server_time

_offset: float | None = None
"""Seconds from the monotonic clock of this host, which never jumps, to Redis's clock."""


def measure(client: Redis) -> None:
    """Asks Redis for the time. Raises the client's RedisError."""
    global _offset  # noqa: PLW0603 - one clock for all that a process writes
    before = time.monotonic()
    found = server_time(client)
    _offset = found - (before + time.monotonic()) / 2


def timestamp() -> float:
    """Returns the time in seconds since 1970; by this host's clock if Redis was never asked."""
    return time.time() if _offset is None else time.monotonic() + _offset


def now() -> datetime:
    """Returns the time."""
    return datetime.fromtimestamp(timestamp(), UTC)


def seconds_ahead() -> float:
    """Returns by how much the clock of this host is ahead of Redis's."""
    return time.time() - timestamp()
