"""What a worker's host has: a clock, which may be wrong, and memory, which jobs must not use up."""

import resource
import time
from datetime import UTC, datetime

from redis import Redis

from docora_ops.queue.redis_client import server_time
from docora_ops.settings import Settings

_MOST_MEMORY = 2 << 30
"""Bytes for a job, and for each git that it starts."""
_CHUNKS = 4
"""Copies of a chunk that its delivery needs."""

_offset: float | None = None
"""Seconds from the monotonic clock of this host, which never jumps, to Redis's clock."""


def measure_clock(client: Redis) -> None:
    """Asks Redis for the time, by which workers judge heartbeats and sign requests.

    Raises the client's RedisError.
    """
    global _offset  # noqa: PLW0603 - one clock for all that a process writes
    before = time.monotonic()
    found = server_time(client)
    _offset = found - (before + time.monotonic()) / 2


def timestamp() -> float:
    """Returns Redis's time in seconds since 1970; this host's if Redis was never asked."""
    return time.time() if _offset is None else time.monotonic() + _offset


def now() -> datetime:
    """Returns Redis's time."""
    return datetime.fromtimestamp(timestamp(), UTC)


def seconds_ahead() -> float:
    """Returns by how much the clock of this host is ahead of Redis's."""
    return time.time() - timestamp()


def limit_memory(settings: Settings) -> None:
    """Limits the memory of this process and of each that it starts, where the system can.

    What a repository holds, or a server answers, may be endless.
    """
    limit = _MOST_MEMORY + _CHUNKS * settings.binary_chunk_size_bytes
    # Not RLIMIT_AS: git maps packs of any size, which take no memory of their own.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = [each for each in (soft, hard) if 0 <= each < limit]
    resource.setrlimit(resource.RLIMIT_DATA, (min(lower, default=limit), hard))


def memory_limit() -> str:
    """Returns the limit of this process in words."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return "no limit" if limit < 0 else f"limit {limit >> 20:,} MiB"
