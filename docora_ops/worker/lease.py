"""The lease of a link: the right of one process to work on it, kept in Redis.

RQ's execution says that a job runs. But a process that was paused past its end does not know that
another one has taken over. So the job looks at the lease before it sends or writes anything.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import TypeVar
from uuid import uuid4

from redis import Redis, exceptions
from redis.lock import Lock
from rq.intermediate_queue import IntermediateQueue

from docora_ops.queue.connection import explain, redis_errors, text_of
from docora_ops.queue.rq import LIST
from docora_ops.worker.log import log

KEY = "docora-ops:lease:{}"
TTL = 85  # seconds: a little less than the execution's, so that whoever takes over finds it free
EXIT_CODE = 75  # of a process that has lost its lease
_MARK_TTL = 7 * 86_400  # seconds
Reply = TypeVar("Reply")
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError)


class Lease:
    """The lease of the link of one job. Methods raise RedisError, unless Redis is only away.

    job_id: id of the job.
    give_back: called if the lease is gone: sets the link to pending, without a failure.
    """

    def __init__(self, client: Redis, job_id: str, give_back: Callable[[], None]) -> None:
        self._client = client
        self._key = KEY.format(job_id)
        self._mark = f"{self._key}:given-back"
        self._first_seen = IntermediateQueue(LIST, client).get_first_seen_key(job_id)
        self._owner = uuid4().hex
        self._give_back = give_back
        self._lock = Lock(client, self._key, timeout=TTL, thread_local=False)
        self.is_held = False
        self._guard = threading.RLock()  # for the thread that renews the lease
        self.was_given_back = False

    def acquire(self) -> bool:
        """Takes the lease. Returns False if another process has it. Waits while Redis is away.

        Sets `was_given_back`: the last process has counted no failure, although the link may still
        be `scanning`.
        """

        def acquire() -> tuple[bool, bool]:
            # Redis may have taken the command, and its reply was lost: then the lease is ours, too.
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(self._key, self._owner, nx=True, ex=TTL)
            pipeline.get(self._key)
            pipeline.get(self._mark)
            # RQ keeps it for a day: when the job is taken next, it would count as stuck, and be
            # queued a second time.
            pipeline.delete(self._first_seen)
            _, owner, mark, _ = pipeline.execute()
            return text_of(owner) == self._owner, bool(mark)

        with self._guard, redis_errors(self._client):
            self.is_held, is_marked = self._insist(acquire)
            self._lock.local.token = self._owner.encode()
            self.was_given_back = self.is_held and is_marked
            if self.was_given_back:
                self._insist(lambda: self._client.delete(self._mark))
        return self.is_held

    def mark_given_back(self) -> None:
        """Notes that the try does not count, because Postgres can't be told."""
        with redis_errors(self._client):
            self._insist(lambda: self._client.set(self._mark, 1, ex=_MARK_TTL))

    def look(self) -> None:
        """Ends the process unless the lease is ours. Waits while Redis is away."""
        with self._guard, redis_errors(self._client):
            if self.is_held:
                self._leave_unless_ours(self._insist(lambda: self._client.get(self._key)))

    def renew(self, beat: Callable[[], None]) -> None:
        """If the lease is held, renews it, then calls `beat`. If not ours, ends the process."""
        with self._guard, suppress(exceptions.RedisError):
            if self.is_held:
                try:
                    self._lock.reacquire()
                except exceptions.LockNotOwnedError:
                    self._leave_unless_ours(self._client.get(self._key))
                beat()

    def release(self) -> None:
        """Gives up the lease before RQ ends the job. Ends the process if the lease is not ours.

        Waits while Redis is away, because RQ would not.
        """
        tries = count()

        def release() -> None:
            is_first = next(tries) == 0
            self._lock.local.token = self._owner.encode()  # dropped by a release that failed
            with suppress(exceptions.LockNotOwnedError):
                self._lock.release()
                return
            owner = self._client.get(self._key)
            if owner or is_first:  # otherwise, the reply to the first try was lost
                self._leave_unless_ours(owner)

        with self._guard, redis_errors(self._client):
            if self.is_held:
                self._insist(release)
            self.is_held = False

    def _insist(self, ask: Callable[[], Reply]) -> Reply:
        """Asks Redis until it answers."""
        is_told = False
        while True:
            try:
                return ask()
            except _AWAY as error:
                if not is_told:
                    log.warning("Redis %s: waits until it answers", explain(error)[0])
                is_told = True
                time.sleep(1)

    def _leave_unless_ours(self, owner: object) -> None:
        """Ends the process: RQ's closing writes would spoil the job of another process.

        owner: who has the lease; None if nobody has it. Then nobody works on the link, and the try
            is given back.
        """
        if text_of(owner) == self._owner:
            return
        if owner:
            log.warning("%s: another worker has taken over: this process ends", self._key)
            os._exit(EXIT_CODE)
        log.warning("%s: the lease is gone from Redis: this process ends", self._key)
        try:
            if self._lock.acquire(blocking=False, token=self._owner):
                self._give_back()
                self._lock.release()
        finally:
            os._exit(EXIT_CODE)
