"""A worker that outlasts an outage of Redis, such as a failover."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from redis import RedisError
from redis.client import Pipeline, PubSub
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError
from rq import Queue
from rq.job import Job
from rq.worker import WorkerStatus

from docora_ops import errors
from docora_ops.queue.redis_client import is_outage, redis_errors
from docora_ops.worker.log import log
from docora_ops.worker.rq_worker import SnapshotWorker
from docora_ops.worker.stopping import Stopped

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0

_T = TypeVar("_T")


class LastingWorker(SnapshotWorker):
    """A worker that waits while Redis is away, once it has begun; a burst ends instead.

    RQ's own loop waits only if the connection breaks while it asks for a job, and ends at any
    refusal, as that of a replica.
    """

    max_connection_wait_time = _LONGEST_PAUSE

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waits = False
        self._is_away = False

    def work_until_stopped(self, *, burst: bool, grace: int | None = None) -> None:
        """Works until a signal comes or, in a burst, until the queue is empty."""
        self._waits = not burst
        if self._waits:  # RQ says at each attempt what is said once here
            self.log.addFilter(lambda record: "could not connect to Redis" not in str(record.msg))
        super().work_until_stopped(burst=burst, grace=grace)

    def check_for_suspension(self, burst: bool) -> None:
        """Waits while workers are suspended or Redis is away."""
        self._outlast(partial(super().check_for_suspension, burst))

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Waits for a job."""
        return self._outlast(partial(super().dequeue_job_and_maintain_ttl, timeout, max_idle_time))

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs the job. One whose end could not be recorded is left to the next maintenance."""
        try:
            super().execute_job(job, queue)
        except RedisError as error:
            self._bear(error)
            self.executions.clear()
            with suppress(RedisError):
                self.set_state(WorkerStatus.IDLE)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Sends a heartbeat. If Redis is away, the next command that needs an answer waits."""
        try:
            super().heartbeat(timeout, pipeline)
            if self._is_away and pipeline is None:
                self._go_on()
        except (AuthenticationError, AuthorizationError) as error:
            # For an error of the connection, which it also is, RQ's loop would wait for ever.
            raise ResponseError(str(error)) from error
        except RedisError as error:
            self._bear(error)

    def run_maintenance_tasks(self) -> None:
        """Cleans up, or does so later if Redis is away."""
        try:
            super().run_maintenance_tasks()
        except RedisError as error:
            self._bear(error)

    def set_shutdown_requested_date(self) -> None:
        """Records that the worker was told to end, if Redis takes it."""
        with suppress(RedisError):
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]

    def teardown(self) -> None:
        """Cleans up once; the name is left to expire if Redis is away."""
        try:
            if not (self._is_registered and self._is_away):
                super().teardown()
                return
            self.end_work_horse()
            if self.scheduler:
                self.stop_scheduler()  # type: ignore[no-untyped-call]
        except RedisError as error:
            self._bear(error)
        self._is_registered = False

    def _pubsub_exception_handler(self, exc: Exception, pubsub: PubSub, pubsub_thread: Any) -> None:
        """Has the thread that listens for commands connect again after a pause."""
        if self._waits and isinstance(exc, RedisError) and is_outage(exc):
            time.sleep(_FIRST_PAUSE)
        else:
            super()._pubsub_exception_handler(exc, pubsub, pubsub_thread)

    def _outlast(self, ask: Callable[[], _T]) -> _T:
        """Returns the answer, if need be of a later attempt. Raises Stopped."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return ask()
            except RedisError as error:
                self._bear(error)
            if self.stop_was_requested:
                raise Stopped
            self.end_work_horse()  # its connection may lead to a former primary
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _go_on(self) -> None:
        """Listens for commands anew, since the former thread may listen to a former primary."""
        if self.pubsub_thread is not None:
            self.pubsub_thread.stop()
        self.subscribe()
        self._is_away = False
        log.warning("worker %s: Redis answers again: goes on", self.name)

    def _bear(self, error: RedisError) -> None:
        """Logs the beginning of an outage; raises an error that is none, or ends the worker."""
        if not (self._waits and self._is_registered and is_outage(error)) or self.is_horse:
            raise error
        self._next_heartbeat = 0  # the next one must ask
        if self._is_away:
            return
        self._is_away = True
        try:
            with redis_errors(self.connection):
                raise error
        except errors.RedisError as told:
            rest = "" if self.stop_was_requested else "; waits until it answers"
            log.warning("worker %s: %s%s", self.name, told.message, rest)
