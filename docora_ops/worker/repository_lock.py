"""The lock under which one process at a time lets git work on a repository's clone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock

from docora_ops.errors import SnapshotError
from docora_ops.queue.redis_client import redis_errors

TTL = 120
"""Seconds, as in Docora's own workers."""
FIRST_PAUSE = 0.02
PAUSE = 2.0
"""Seconds between two attempts to take the lock: they double from the first pause to this one.

Apps of one repository often wait in the queue one behind the other, and git needs a moment only.
"""
TIMEOUT = 60.0
"""Seconds to wait for the lock."""


class RepositoryLock:
    """The key `docora:repo-lock:{owner}/{name}`, which Docora's own workers take, too."""

    def __init__(self, client: redis.Redis, full_name: str) -> None:
        self._client = client
        self._full_name = full_name
        self._lock = Lock(client, f"docora:repo-lock:{full_name}", timeout=TTL)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for the block.

        Raises RedisError, and SnapshotError if another worker has held the lock for a minute.
        """
        with redis_errors(self._client):
            is_ours = self._acquire()
        if not is_ours:
            raise SnapshotError(
                f"another worker has held the lock of {self._full_name} for over {TIMEOUT:g} s"
            )
        try:
            yield
        finally:
            # A lock that cannot be released expires.
            with suppress(redis.RedisError):
                self._lock.release()

    def _acquire(self) -> bool:
        end = time.monotonic() + TIMEOUT
        pause = min(FIRST_PAUSE, PAUSE)
        while not self._lock.acquire(blocking=False):
            if time.monotonic() + pause > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)
        return True

    def renew(self) -> None:
        """Sets the TTL again. Raises RedisError, and SnapshotError if the lock was lost."""
        with redis_errors(self._client):
            try:
                self._lock.reacquire()
            except LockNotOwnedError as error:
                raise SnapshotError(
                    f"the lock of {self._full_name} was lost while git worked"
                ) from error
