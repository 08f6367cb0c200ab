"""Reading the RQ queue. Writes nothing and unpickles nothing, unlike RQ's own calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import (
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.scheduler import SCHEDULER_KEY_TEMPLATE, SCHEDULER_LOCKING_KEY_TEMPLATE
from rq.utils import utcparse
from rq.worker import Worker as RQWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import (
    MOST_SEARCHED,
    QUEUE_NAME,
    Backend,
    JobFailure,
    JobPlace,
    JobRecord,
    OtherQueue,
    QueuedJob,
    QueueHealth,
    QueueOverview,
    Scheduler,
    Worker,
    silence_of,
)
from docora_ops.links import ids_of_job
from docora_ops.queue.backend import TO_REMOVE_BULLMQ_JOBS
from docora_ops.queue.job_template import call_of, traceback_of
from docora_ops.queue.redis_client import (
    answers_of,
    moment_of_timestamp,
    optional_text_of,
    redis_errors,
    server_time,
    text_of,
    whole_number,
)
from docora_ops.queue.scripts import INTERMEDIATE, LIST, REGISTRIES, registry_key
from docora_ops.queue.suspension import read_suspension

_JOB_FIELDS = ("data", "created_at", "enqueued_at", "started_at")
_RECORD_FIELDS = (
    *("status", "origin", "retries_left", "worker_name"),
    *("created_at", "enqueued_at", "started_at", "ended_at"),
)
_WORKER_FIELDS = ("birth", "death", "state", "hostname", "pid", "last_heartbeat", "clock_ahead")
_SCHEDULER_FIELDS = ("hostname", "pid", "last_heartbeat")
_MOST_RESULTS = 10
"""RQ keeps no more."""
_LEAST_WAITING = 20
"""Jobs at the head of the list that are compared for the oldest: `--front` puts new jobs there."""
_MOST_INTERMEDIATE = 1000
"""Ids in the intermediate list that are read: each worker has one at most."""
_LEAST_TTL_MS = 50_000
"""Milliseconds that a worker's key has left at least: each heartbeat sets it to at least 60 s more
than the time until the next one."""


class RqReader:
    """Reads the RQ queue. All calls raise RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""
        with redis_errors(self._client):
            return self._overview(limit)

    def _overview(self, limit: int) -> QueueOverview:
        now = server_time(self._client)
        not_expired = f"({now}", cast("int", "+inf")
        read = max(limit, _LEAST_WAITING)
        pipeline = self._pipeline()
        pipeline.llen(LIST)
        pipeline.zcard(registry_key(ScheduledJobRegistry))
        pipeline.zcount(registry_key(FinishedJobRegistry), *not_expired)
        pipeline.zcount(registry_key(FailedJobRegistry), *not_expired)
        pipeline.lrange(LIST, 0, read - 1)
        pipeline.lrange(INTERMEDIATE, 0, _MOST_INTERMEDIATE - 1)
        pipeline.zrange(registry_key(StartedJobRegistry), *not_expired, byscore=True)
        pipeline.zrange(registry_key(ScheduledJobRegistry), 0, limit - 1, withscores=True)
        pipeline.get(SCHEDULER_LOCKING_KEY_TEMPLATE % QUEUE_NAME)
        length, delayed, finished, failed, *found, lock = pipeline.execute()
        head, intermediate, executions, due = found
        active = list(dict.fromkeys(_job_id(member) for member in executions))
        taken = [job_id for job_id in map(text_of, intermediate) if job_id not in active]
        due_at = {text_of(job_id): moment_of_timestamp(score) for job_id, score in due}
        first = self._jobs([*taken, *map(text_of, head)][:read], "waiting")
        jobs = [
            *self._jobs(active[:limit], "active"),
            *first[:limit],
            *self._jobs(list(due_at), "delayed", due_at),
        ]
        suspension = read_suspension(self._client)
        oldest = min(filter(None, (job.enqueued_at for job in first)), default=None)
        return QueueOverview(
            backend=Backend.RQ,
            waiting=length + len(taken),
            active=len(executions),
            completed_jobs=finished,
            failed_jobs=failed,
            delayed=delayed,
            queue_name=QUEUE_NAME,
            oldest_waiting_at=oldest,
            oldest_waiting_seconds=max(0, int(now - oldest.timestamp())) if oldest else None,
            suspended=suspension is not None,
            suspension=suspension,
            workers=self._workers(now),
            scheduler=self._scheduler(lock),
            jobs=jobs[:limit],
        )

    def _jobs(
        self,
        job_ids: Sequence[str],
        status: str,
        due_at: Mapping[str, datetime | None] | None = None,
    ) -> list[QueuedJob]:
        rows = self._hashes([Job.key_for(job_id) for job_id in job_ids], _JOB_FIELDS)
        jobs = []
        for job_id, (data, created_at, enqueued_at, started_at) in zip(job_ids, rows, strict=True):
            call = call_of(data or b"")
            app_id, repository_id = ids_of_job(job_id) or (None, None)
            owner, name = call.get("owner"), call.get("name")
            jobs.append(
                QueuedJob(
                    job_id=job_id,
                    status=status,
                    name=call.get("function"),
                    app_id=app_id,
                    app_name=call.get("app_name"),
                    repository_id=repository_id,
                    repository_name=f"{owner}/{name}" if owner and name else None,
                    created_at=moment_of(created_at),
                    processed_at=moment_of(started_at) if status == "active" else None,
                    enqueued_at=moment_of(enqueued_at),
                    due_at=due_at[job_id] if due_at else None,
                )
            )
        return jobs

    def _workers(self, now: float) -> list[Worker]:
        """Reads the live workers of the queue. Redis forgets a killed one some time later."""
        prefix = RQWorker.redis_worker_namespace_prefix
        keys = cast("set[bytes]", self._client.smembers(WORKERS_BY_QUEUE_KEY % QUEUE_NAME))
        names = sorted(text_of(key).removeprefix(prefix) for key in keys)
        rows = self._hashes([prefix + name for name in names], _WORKER_FIELDS)
        pipeline = self._pipeline()
        for name in names:
            pipeline.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(name))
            pipeline.pttl(prefix + name)
        answers = pipeline.execute()
        workers = []
        for name, row, runs, ttl in zip(names, rows, answers[::2], answers[1::2], strict=True):
            birth, death, state, hostname, pid, last_heartbeat, clock_ahead = row
            if birth is None or death is not None:
                continue
            heartbeat_at = moment_of(last_heartbeat)
            seconds = max(0, int(now - heartbeat_at.timestamp())) if heartbeat_at else None
            workers.append(
                Worker(
                    name=name,
                    state=optional_text_of(state),
                    hostname=optional_text_of(hostname),
                    pid=whole_number(pid),
                    last_heartbeat_at=heartbeat_at,
                    jobs=self._jobs(self._running(sorted(runs)), "active"),
                    silent_seconds=seconds if 0 <= ttl < _LEAST_TTL_MS else None,
                    clock_ahead_seconds=whole_number(clock_ahead, signed=True),
                )
            )
        return workers

    def _running(self, executions: Sequence[bytes]) -> list[str]:
        """Returns the job ids of the executions that have not expired."""
        keys = [f"{RQ_KEY_PREFIX}:execution:{text_of(each)}" for each in executions]
        known = self._hashes(keys, ("created_at",))
        return [_job_id(each) for each, [at] in zip(executions, known, strict=True) if at]

    def _scheduler(self, lock: bytes | None) -> Scheduler | None:
        if lock is None:
            return None
        name = text_of(lock)
        [(hostname, pid, heartbeat)] = self._hashes(
            [SCHEDULER_KEY_TEMPLATE % name], _SCHEDULER_FIELDS
        )
        return Scheduler(name, optional_text_of(hostname), whole_number(pid), moment_of(heartbeat))

    def health(self, other: OtherQueue) -> QueueHealth:
        """Reads what `doctor` checks. `other`: the state of BullMQ's queue."""
        with redis_errors(self._client):
            now = server_time(self._client)
            pipeline = self._pipeline()
            pipeline.llen(LIST)
            pipeline.exists(SCHEDULER_LOCKING_KEY_TEMPLATE % QUEUE_NAME)
            pipeline.lrange(LIST, 0, _LEAST_WAITING - 1)
            pipeline.zrange(registry_key(ScheduledJobRegistry), 0, 0, withscores=True)
            waiting, has_scheduler, head, delayed = pipeline.execute()
            rows = self._hashes([Job.key_for(text_of(job_id)) for job_id in head], ["enqueued_at"])
            oldest = min(filter(None, (moment_of(at) for [at] in rows)), default=None)
            workers = self._workers(now)
            return QueueHealth(
                waiting=waiting,
                oldest_waits_for=now - oldest.timestamp() if oldest else None,
                workers=len(workers),
                suspension=read_suspension(self._client),
                # Our workers, which tell how far off their clock is, queue delayed jobs themselves.
                has_scheduler=has_scheduler > 0
                or any(worker.clock_ahead_seconds is not None for worker in workers),
                first_delayed_in=delayed[0][1] - now if delayed else None,
                other=other,
                silence=silence_of(workers),
                live_workers=workers,
                to_remove_others=TO_REMOVE_BULLMQ_JOBS,
            )

    def job(self, job_id: str) -> JobRecord:
        """Reads all that RQ has of one job."""
        with redis_errors(self._client):
            key = Job.key_for(job_id)
            [(status, origin, retries_left, worker, *times)] = self._hashes([key], _RECORD_FIELDS)
            created_at, enqueued_at, started_at, ended_at = map(moment_of, times)
            ttl = self._client.pttl(key)
            return JobRecord(
                status=optional_text_of(status),
                origin=optional_text_of(origin),
                created_at=created_at,
                enqueued_at=enqueued_at,
                started_at=started_at,
                ended_at=ended_at,
                attempts=None,
                retries_left=whole_number(retries_left),
                worker=optional_text_of(worker),
                expires_in=ttl // 1000 if ttl >= 0 else None,
                places=self._places(job_id, optional_text_of(origin) or QUEUE_NAME),
                last_failure=self._last_failure(job_id),
            )

    def _places(self, job_id: str, queue: str) -> list[JobPlace]:
        """Finds the job in the lists and registries of its queue, and the executions of the job."""
        waiting = Queue.redis_queue_namespace_prefix + queue
        pipeline = self._pipeline()
        pipeline.zrange(registry_key(ExecutionRegistry, job_id), 0, -1)
        pipeline.lpos(waiting, job_id, count=0, maxlen=MOST_SEARCHED)
        pipeline.lpos(IntermediateQueue.get_intermediate_queue_key(waiting), job_id, count=0)
        for registry in REGISTRIES.values():
            pipeline.zscore(registry_key(registry, queue), job_id)
        executions, indexes, between, *scores = pipeline.execute()
        prefix = f"{RQ_KEY_PREFIX}:execution:{job_id}:"
        keys = [prefix + text_of(each) for each in executions]
        return [
            *(JobPlace("list", queue, position=index + 1) for index in indexes),
            *(JobPlace("intermediate", queue, position=index + 1) for index in between),
            *(
                JobPlace(name, queue, score_at=moment_of_timestamp(score))
                for name, score in zip(REGISTRIES, scores, strict=True)
                if score is not None
            ),
            *(
                JobPlace(
                    "execution", queue, alive=known is not None, worker=optional_text_of(worker)
                )
                for known, worker in self._hashes(keys, ("created_at", "worker_name"))
            ),
        ]

    def _last_failure(self, job_id: str) -> JobFailure | None:
        pipeline = self._pipeline()
        pipeline.xrevrange(f"{RQ_KEY_PREFIX}:results:{job_id}", count=_MOST_RESULTS)
        [entries] = answers_of(pipeline)
        for entry_id, fields in entries or ():
            text = traceback_of(fields.get(b"exc_string") or b"")
            if text:
                failed_at = moment_of_timestamp(int(entry_id.partition(b"-")[0]) / 1000)
                return JobFailure(failed_at, optional_text_of(fields.get(b"worker_name")), text)
        return None

    def _hashes(self, keys: Sequence[str], fields: Sequence[str]) -> list[list[bytes | None]]:
        """Reads these fields of each hash; all are None for a key of another type."""
        pipeline = self._pipeline()
        for key in keys:
            pipeline.hmget(key, list(fields))
        return [row or [None] * len(fields) for row in answers_of(pipeline)]

    def _pipeline(self) -> Pipeline:
        return self._client.pipeline(transaction=False)


def _job_id(execution: bytes) -> str:
    """Returns the job id in an entry of a registry of executions."""
    return text_of(execution).partition(":")[0]


def moment_of(value: bytes | None) -> datetime | None:
    """Parses a time as RQ writes it; returns None for anything else."""
    with suppress(ValueError):
        if value:
            return utcparse(text_of(value))
    return None
