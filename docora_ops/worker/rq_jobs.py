"""RQ's queue, job and registry of running jobs, each with one correction."""

from __future__ import annotations

import time
from typing import ClassVar, cast

from redis.client import Pipeline
from rq import Queue
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

_MAINTENANCE_LOCK_TTL = 120


class SnapshotQueue(Queue):
    """A queue whose maintenance lock expires after two minutes.

    RQ's own lasts 15 minutes. If its owner were killed, nobody would clean up until then.
    """

    def acquire_maintenance_lock(self) -> bool:
        """Takes the lock; returns False if another worker holds it."""
        key = self.registry_cleaning_key
        return bool(self.connection.set(key, 1, nx=True, ex=_MAINTENANCE_LOCK_TTL))


class SnapshotJob(Job):
    """A job whose next try is scheduled atomically.

    RQ first sets the status `scheduled`, and then adds the job to the schedule. If the process were
    killed in between, RQ would drop the job.
    """

    _retry_pipeline: Pipeline | None = None

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


class RunningJobs(StartedJobRegistry):
    """A registry of running jobs whose heartbeats expire by Redis's clock.

    RQ's own expire by the clock of this host. If that is behind, other workers take a running job
    for abandoned.
    """

    clock_ahead: ClassVar[float] = 0
    """Seconds by which the clock of this host is ahead of Redis's."""

    def add_execution(
        self, execution: Execution, pipeline: Pipeline, ttl: int = 0, xx: bool = False
    ) -> int:
        """Adds or renews an execution; it expires `ttl` seconds from now by Redis's clock."""
        if ttl < 0:
            return super().add_execution(execution, pipeline, ttl, xx)
        expires_at = time.time() - self.clock_ahead + ttl
        return cast("int", pipeline.zadd(self.key, {execution.composite_key: expires_at}, xx=xx))
