"""Looking into the queue, field by field. Writes nothing and unpickles nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError
from rq import Queue
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import (
    BaseRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.scheduler import SCHEDULER_KEY_TEMPLATE, SCHEDULER_LOCKING_KEY_TEMPLATE
from rq.utils import utcparse
from rq.worker import Worker as RQWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.queue.connection import describe, redis_errors
from docora_ops.queue.jobs import call_of
from docora_ops.settings import Settings
from docora_ops.views import QueuedJob, QueueOverview, Scheduler, Worker

_JOB_FIELDS = ("data", "created_at", "enqueued_at", "started_at")
_WORKER_FIELDS = ("birth", "death", "state", "hostname", "pid", "last_heartbeat")
_SCHEDULER_FIELDS = ("hostname", "pid", "last_heartbeat")
_LEAST_WAITING = 20
"""The oldest is looked for among so many: what was put at the head has not waited longest."""
_MOST_BETWEEN = 1000
"""Ids between queue and worker that are looked at: a worker has one at most."""


class QueueReader:
    """Reads the queue that the jobs of links stand in. All calls raise RedisError."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._client = client
        self._name = settings.queue_name
        self._where = describe(settings)
        self._list = Queue(settings.queue_name, connection=client).key
        self._intermediate = IntermediateQueue.get_intermediate_queue_key(self._list)

    def overview(self, limit: int) -> QueueOverview:
        """Counts, workers, scheduler, and at most `limit` jobs."""
        with redis_errors(self._where):
            now = self._now()
            length, delayed, finished, failed = self._counts(now)
            scheduled = self._registry(ScheduledJobRegistry)
            pipeline = self._pipeline()
            pipeline.lrange(self._list, 0, max(limit, _LEAST_WAITING) - 1)
            pipeline.lrange(self._intermediate, 0, _MOST_BETWEEN - 1)
            pipeline.zrange(
                self._registry(StartedJobRegistry), f"({now}", cast("int", "+inf"), byscore=True
            )
            pipeline.zrange(scheduled, 0, limit - 1, withscores=True)
            pipeline.smembers(WORKERS_BY_QUEUE_KEY % self._name)
            pipeline.get(SCHEDULER_LOCKING_KEY_TEMPLATE % self._name)
            head, between, executions, due, worker_keys, lock = pipeline.execute()
            active = list(dict.fromkeys(_job_id(member) for member in executions))
            waiting = [_text(each) for each in between if _text(each) not in active]
            waiting += [_text(each) for each in head]
            due_at = {_text(job_id): _from_timestamp(score) for job_id, score in due}
            running = self._jobs(active[:limit], "active")
            first = self._jobs(waiting[: max(limit, _LEAST_WAITING)], "waiting")
            later = self._jobs(list(due_at), "delayed", due_at)
            return QueueOverview(
                queue=self._name,
                waiting=length + len(waiting) - len(head),
                active=len(executions),
                completed=finished,
                failed=failed,
                delayed=delayed,
                seen_at=datetime.fromtimestamp(now, UTC),
                oldest_waiting_at=min(
                    filter(None, (job.enqueued_at for job in first)), default=None
                ),
                workers=self._workers(worker_keys),
                scheduler=self._scheduler(lock),
                jobs=[*running, *first[:limit], *later][:limit],
            )

    def _counts(self, now: float) -> list[int]:
        """How many jobs are in the list, scheduled, finished, and failed."""
        pipeline = self._pipeline()
        pipeline.llen(self._list)
        pipeline.zcard(self._registry(ScheduledJobRegistry))
        for registry in (FinishedJobRegistry, FailedJobRegistry):
            pipeline.zcard(self._registry(registry))
            # What has expired is gone: RQ takes it out before it counts, which would be a write.
            pipeline.zcount(self._registry(registry), 0, now)
        length, scheduled, finished, expired, failed, failed_expired = pipeline.execute()
        return [length, scheduled, finished - expired, failed - failed_expired]

    def _jobs(
        self, job_ids: Sequence[str], status: str, due_at: dict[str, datetime | None] | None = None
    ) -> list[QueuedJob]:
        rows = self._hashes([Job.key_for(job_id) for job_id in job_ids], _JOB_FIELDS)
        jobs = []
        for job_id, (data, created_at, enqueued_at, started_at) in zip(job_ids, rows, strict=True):
            call = call_of(data or b"")
            owner, name = call.get("owner"), call.get("name")
            jobs.append(
                QueuedJob(
                    id=job_id,
                    status=status,
                    name=call.get("function"),
                    app_name=call.get("app_name"),
                    repository=f"{owner}/{name}" if owner and name else None,
                    created_at=_moment(created_at),
                    enqueued_at=_moment(enqueued_at),
                    started_at=_moment(started_at) if status == "active" else None,
                    due_at=due_at[job_id] if due_at else None,
                )
            )
        return jobs

    def _workers(self, keys: Iterable[bytes]) -> list[Worker]:
        prefix = RQWorker.redis_worker_namespace_prefix
        names = sorted(_text(key).removeprefix(prefix) for key in keys)
        rows = self._hashes([prefix + name for name in names], _WORKER_FIELDS)
        pipeline = self._pipeline()
        for name in names:
            pipeline.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(name))
        workers = []
        for name, row, executions in zip(names, rows, pipeline.execute(), strict=True):
            birth, death, state, hostname, pid, last_heartbeat = row
            alive = birth is not None and death is None
            job_ids = sorted({_job_id(member) for member in executions}) if alive else []
            workers.append(
                Worker(
                    name=name,
                    state=_text(state) if state else None,
                    hostname=_text(hostname) if hostname else None,
                    pid=_text(pid) if pid else None,
                    last_heartbeat=_moment(last_heartbeat),
                    alive=alive,
                    jobs=self._jobs(job_ids, "active"),
                )
            )
        return workers

    def _scheduler(self, lock: bytes | None) -> Scheduler | None:
        if lock is None:
            return None
        name = _text(lock)
        [(hostname, pid, last_heartbeat)] = self._hashes(
            [SCHEDULER_KEY_TEMPLATE % name], _SCHEDULER_FIELDS
        )
        return Scheduler(
            name,
            _text(hostname) if hostname else None,
            _text(pid) if pid else None,
            _moment(last_heartbeat),
        )

    def _hashes(self, keys: Sequence[str], fields: Sequence[str]) -> list[list[bytes | None]]:
        """These fields of each; of a key that is something else, none."""
        pipeline = self._pipeline()
        for key in keys:
            pipeline.hmget(key, list(fields))
        rows: list[list[bytes | None]] = []
        for row in pipeline.execute(raise_on_error=False):
            if isinstance(row, ResponseError) and str(row).startswith("WRONGTYPE"):
                rows.append([None] * len(fields))
            elif isinstance(row, Exception):
                raise row
            else:
                rows.append(row)
        return rows

    def _pipeline(self) -> Pipeline:
        return self._client.pipeline(transaction=False)

    def _now(self) -> float:
        seconds, microseconds = self._client.time()
        return seconds + microseconds / 1e6

    def _registry(self, registry: type[BaseRegistry]) -> str:
        return registry.key_template.format(self._name)


def _job_id(execution: bytes) -> str:
    """The job of an entry of a registry of executions."""
    return _text(execution).partition(":")[0]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _from_timestamp(score: float) -> datetime | None:
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(score, UTC)
    return None


def _moment(value: bytes | None) -> datetime | None:
    """A time as RQ writes it; None where it is missing or something else."""
    with suppress(ValueError):
        if value:
            return utcparse(_text(value))
    return None
