"""The lock under which one process at a time lets git work on a repository's clone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from redis import Redis

from docora_ops.errors import RedisError, SnapshotError
from docora_ops.queue.redis_client import describe, redis_errors
from docora_ops.settings import Settings

LIFE = 120_000
"""Milliseconds."""
PAUSE = 2.0
"""Seconds between two attempts to take it."""
ATTEMPTS = 30

_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


class RepositoryLock:
    """`docora:repo-lock:{owner}/{name}`, as Docora's own workers take it."""

    def __init__(self, settings: Settings, client: Redis, full_name: str) -> None:
        self._client = client
        self._where = describe(settings)
        self._full_name = full_name
        self._key = f"docora:repo-lock:{full_name}"
        self._value = os.urandom(16).hex()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the lock for the length of the block.

        Raises SnapshotError when others have had it for a minute, RedisError.
        """
        self._take()
        try:
            yield
        finally:
            # What can't be released expires.
            with suppress(RedisError), redis_errors(self._where):
                self._client.eval(_RELEASE, 1, self._key, self._value)

    def renew(self) -> None:
        """Give it its whole life again. Raises SnapshotError when it is lost, RedisError."""
        with redis_errors(self._where):
            renewed = cast("int", self._client.eval(_RENEW, 1, self._key, self._value, str(LIFE)))
        if not renewed:
            raise SnapshotError(f"the lock of {self._full_name} was lost while git worked")

    def _take(self) -> None:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE)
            with redis_errors(self._where):
                if self._client.set(self._key, self._value, nx=True, px=LIFE):
                    return
        raise SnapshotError(
            f"another worker has held the lock of {self._full_name} for over {ATTEMPTS * PAUSE:g} s"
        )
