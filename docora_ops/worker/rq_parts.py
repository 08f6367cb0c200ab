"""RQ's queue, job, registry of running jobs and scheduler, each with corrections."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta
from types import FrameType
from typing import Any, cast

from redis import Redis, RedisError
from redis.client import Pipeline
from rq import Queue
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry, StartedJobRegistry
from rq.scheduler import RQScheduler

from docora_ops.interrupts import CUT_OFF, held_back
from docora_ops.worker import redis_clock

_MAINTENANCE_LOCK_TTL = 120


class SnapshotQueue(Queue):
    """A queue whose maintenance lock expires after two minutes.

    RQ's own lasts 15 minutes. If its owner were killed, nobody would clean up until then.
    """

    def acquire_maintenance_lock(self) -> bool:
        """Takes the lock; returns False if another worker holds it."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=_MAINTENANCE_LOCK_TTL))

    def schedule_job(
        self, job: Job, datetime: datetime, pipeline: Pipeline | None = None, unique: bool = False
    ) -> Job:
        """Schedules the job; `datetime` is by the clock of this host."""
        due_at = datetime - timedelta(seconds=redis_clock.seconds_ahead())
        return super().schedule_job(job, due_at, pipeline, unique)


class CutOff(BaseException):
    """The worker ends and waits no longer for its job. Cleaning up is all that is left to do.

    No Exception, so that nothing in between takes it for a failure.
    """


class SnapshotJob(Job):
    """A job that its worker can cut off, and whose next try is scheduled atomically.

    RQ first sets the status `scheduled`, and then adds the job to the schedule. If the process were
    killed in between, RQ would drop the job.
    """

    was_cut_off = False
    _retry_pipeline: Pipeline | None = None

    def perform(self) -> Any:
        """Runs the job. Raises CutOff on the signal that a work-horse holds back until then."""
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {CUT_OFF})
        try:
            return super().perform()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def try_again_at_once(self) -> None:
        """Makes the next try follow at once, and this one not count."""
        self.was_cut_off = True
        self.retries_left = (self.retries_left or 0) + 1

    def get_retry_interval(self) -> int:
        """Returns the seconds until the next try."""
        return 0 if self.was_cut_off else super().get_retry_interval()

    @property
    def started_job_registry(self) -> StartedJobRegistry:
        """The registry of running jobs, with heartbeats by Redis's clock."""
        return RunningJobs(
            self.origin,
            connection=self.connection,
            job_class=type(self),
            serializer=self.serializer,
        )

    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """Queues or schedules the next try in the pipeline, its status included."""
        self._retry_pipeline = pipeline
        try:
            super().retry(queue, pipeline)
        finally:
            self._retry_pipeline = None

    def set_status(self, status: JobStatus, pipeline: Pipeline | None = None) -> None:
        """Sets the status."""
        super().set_status(status, self._retry_pipeline if pipeline is None else pipeline)


def cut_off(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Handles the signal in a work-horse."""
    signal.signal(number, signal.SIG_IGN)  # else a second one would cut off the cleaning up
    raise CutOff


class RunningJobs(StartedJobRegistry):
    """A registry of running jobs whose heartbeats expire by Redis's clock.

    RQ's own expire by the clock of this host. If that is behind, other workers take a running job
    for abandoned.
    """

    def add_execution(
        self, execution: Execution, pipeline: Pipeline, ttl: int = 0, xx: bool = False
    ) -> int:
        """Adds or renews an execution; it expires `ttl` seconds from now by Redis's clock."""
        if ttl < 0:
            return super().add_execution(execution, pipeline, ttl, xx)
        expires_at = redis_clock.timestamp() + ttl
        return cast("int", pipeline.zadd(self.key, {execution.composite_key: expires_at}, xx=xx))


class _DelayedJobs(ScheduledJobRegistry):
    """A registry of delayed jobs that are due by Redis's clock."""

    def get_jobs_to_schedule(
        self,
        timestamp: int | None = None,  # noqa: ARG002 - by the clock of this host
        chunk_size: int = 1000,
    ) -> list[str]:
        """Returns the ids of jobs that are due."""
        return super().get_jobs_to_schedule(int(redis_clock.timestamp()), chunk_size)


class DelayedJobScheduler(RQScheduler):
    """A scheduler by Redis's clock, whose process ends on a signal, and when its worker was killed.

    RQ's own process goes on, with a copy of the dead worker's connection. Redis hands the next job
    to that connection, where nobody reads it.
    """

    def __init__(self, queues: list[Queue], connection: Redis, logging_level: int) -> None:
        super().__init__(queues, connection=connection, logging_level=logging_level)
        self._pool = connection.connection_pool
        self._worker_pid = os.getpid()
        self._mask: set[int | signal.Signals] = set()

    def start(self) -> None:
        """Forks, with signals held back until the scheduler has its own handlers."""
        with held_back() as self._mask:
            super().start()  # type: ignore[no-untyped-call]

    def work(self) -> None:
        """Runs in the scheduler's process until it is told to end."""
        self._install_signal_handlers()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._pool.disconnect()
        try:
            super().work()  # type: ignore[no-untyped-call]
        except RedisError as error:
            # The next maintenance of the worker starts another scheduler.
            self.log.warning("Scheduler has lost Redis: %s", type(error).__name__)

    def _install_signal_handlers(self) -> None:
        """Handles SIGHUP like SIGTERM, unless it is ignored."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.request_stop)

    def prepare_registries(self, *_: object) -> None:
        """Prepares the registries of delayed jobs."""
        self._scheduled_job_registries = [
            _DelayedJobs(name, connection=self.connection)  # type: ignore[no-untyped-call]
            for name in self.acquired_locks
        ]

    def heartbeat(self) -> None:
        """Sends a heartbeat each second; ends if the worker is no longer the parent."""
        redis_clock.measure(self.connection)
        if os.getppid() != self._worker_pid:
            self._stop_requested = True
        super().heartbeat()  # type: ignore[no-untyped-call]
