"""Reading the RQ queue. Writes nothing and unpickles nothing, unlike RQ's own calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
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
from rq.results import Result
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
from docora_ops.queue.job_template import call_of, traceback_of
from docora_ops.queue.redis_client import answers_of, redis_errors, server_time
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.queue.suspension import read_suspension
from docora_ops.queue.values import moment_of_timestamp, optional_text_of, text_of, whole_number

_BEGUN = {"active", "abandoned"}
_JOB_FIELDS = ("data", "created_at", "enqueued_at", "started_at")
_RECORD_FIELDS = (
    *("status", "origin", "retries_left", "worker_name", "rate_limit_key"),
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
_MOST_EXECUTIONS = 1000
"""Executions that are searched for those of killed workers, the latest heartbeats first."""
_LEAST_TTL_MS = 50_000
"""Milliseconds that a worker's key has left at least: each heartbeat sets it to at least 60 s more
than the time until the next one."""


@dataclass
class _LastRuns:
    """The jobs that a killed worker ran, and its last heartbeat."""

    heartbeat_at: datetime | None = None
    active: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)


class RqReader:
    """Reads the RQ queue. All calls raise RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._name = QUEUE_NAME
        self._list = Queue(QUEUE_NAME, connection=client).key
        self._intermediate = IntermediateQueue.get_intermediate_queue_key(self._list)

    def overview(self, limit: int) -> QueueOverview:
        """Reads the counts, the workers, the scheduler and the first `limit` jobs."""
        with redis_errors(self._client):
            now = server_time(self._client)
            not_expired = f"({now}", cast("int", "+inf")
            read = max(limit, _LEAST_WAITING)
            key_of = partial(registry_key, queue=self._name)
            pipeline = self._pipeline()
            pipeline.llen(self._list)
            pipeline.zcard(key_of(ScheduledJobRegistry))
            pipeline.zcount(key_of(FinishedJobRegistry), *not_expired)
            pipeline.zcount(key_of(FailedJobRegistry), *not_expired)
            pipeline.lrange(self._list, 0, read - 1)
            pipeline.lrange(self._intermediate, 0, _MOST_INTERMEDIATE - 1)
            pipeline.zrange(key_of(StartedJobRegistry), *not_expired, byscore=True)
            pipeline.zrange(key_of(ScheduledJobRegistry), 0, limit - 1, withscores=True)
            pipeline.smembers(WORKERS_BY_QUEUE_KEY % self._name)
            pipeline.get(SCHEDULER_LOCKING_KEY_TEMPLATE % self._name)
            length, delayed, finished, failed, *found, worker_keys, lock = pipeline.execute()
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
            age = None if oldest is None else max(0, int(now - oldest.timestamp()))
            return QueueOverview(
                backend=Backend.RQ,
                waiting=length + len(taken),
                active=len(executions),
                completed_jobs=finished,
                failed_jobs=failed,
                delayed=delayed,
                queue_name=self._name,
                oldest_waiting_at=oldest,
                oldest_waiting_seconds=age,
                suspended=suspension is not None,
                suspension=suspension,
                workers=self._workers(worker_keys, now),
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
                    processed_at=moment_of(started_at) if status in _BEGUN else None,
                    enqueued_at=moment_of(enqueued_at),
                    due_at=due_at[job_id] if due_at else None,
                )
            )
        return jobs

    def _workers(self, keys: Iterable[bytes], now: float) -> list[Worker]:
        prefix = RQWorker.redis_worker_namespace_prefix
        names = sorted(text_of(key).removeprefix(prefix) for key in keys)
        rows = self._hashes([prefix + name for name in names], _WORKER_FIELDS)
        pipeline = self._pipeline()
        for name in names:
            pipeline.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(name))
            pipeline.pttl(prefix + name)
        answers = pipeline.execute()
        killed = [name for name, (birth, *_) in zip(names, rows, strict=True) if birth is None]
        last_runs = self._last_runs(killed, now)
        workers = []
        for name, row, runs, ttl in zip(names, rows, answers[::2], answers[1::2], strict=True):
            birth, death, state, hostname, pid, last_heartbeat, clock_ahead = row
            alive = birth is not None and death is None
            active = self._running(sorted(runs)) if alive else []
            last = last_runs.get(name, _LastRuns(active=active))
            heartbeat_at = moment_of(last_heartbeat) or last.heartbeat_at
            seconds = max(0, int(now - heartbeat_at.timestamp())) if heartbeat_at else None
            workers.append(
                Worker(
                    name=name,
                    state=optional_text_of(state),
                    hostname=optional_text_of(hostname),
                    pid=whole_number(pid),
                    last_heartbeat_at=heartbeat_at,
                    alive=alive,
                    jobs=[
                        *self._jobs(last.active, "active"),
                        *self._jobs(last.abandoned, "abandoned"),
                    ],
                    silent_seconds=seconds if alive and 0 <= ttl < _LEAST_TTL_MS else None,
                    clock_ahead_seconds=whole_number(clock_ahead, signed=True) if alive else None,
                )
            )
        return workers

    def _running(self, executions: Sequence[bytes]) -> list[str]:
        """Returns the job ids of the executions that have not expired."""
        keys = [f"{RQ_KEY_PREFIX}:execution:{text_of(each)}" for each in executions]
        known = self._hashes(keys, ("created_at",))
        return [_job_id(each) for each, [at] in zip(executions, known, strict=True) if at]

    def _last_runs(self, killed: Sequence[str], now: float) -> dict[str, _LastRuns]:
        """Finds what RQ still knows of killed workers whose own keys have expired, by name.

        RQ registers executions until a worker cleans up. The execution names its worker. When it
        has expired, the job does, if it has not been queued again since.
        """
        if not killed:
            return {}
        registry = registry_key(StartedJobRegistry, self._name)
        found = self._client.zrange(registry, -_MOST_EXECUTIONS, -1, withscores=True)
        members = cast("list[tuple[bytes, float]]", found)
        executions = self._hashes(
            [f"{RQ_KEY_PREFIX}:execution:{text_of(member)}" for member, _ in members],
            ("worker_name", "last_heartbeat"),
        )
        jobs = self._hashes(
            [Job.key_for(_job_id(member)) for member, _ in members],
            ("worker_name", "last_heartbeat", "status"),
        )
        last_runs = {name: _LastRuns() for name in killed}
        for (member, score), execution, job in zip(members, executions, jobs, strict=True):
            worker, heartbeat = execution
            heartbeat_at = _from_timestamp_text(heartbeat)
            if worker is None and job[2] == b"started":
                worker, heartbeat_at = job[0], moment_of(job[1])
            last = last_runs.get(text_of(worker or b""))
            if last is None:
                continue
            heartbeats = filter(None, (last.heartbeat_at, heartbeat_at))
            last.heartbeat_at = max(heartbeats, default=None)
            ids = last.active if score > now else last.abandoned
            if _job_id(member) not in ids:
                ids.append(_job_id(member))
        return last_runs

    def _scheduler(self, lock: bytes | None) -> Scheduler | None:
        if lock is None:
            return None
        name = text_of(lock)
        [(hostname, pid, heartbeat)] = self._hashes(
            [SCHEDULER_KEY_TEMPLATE % name], _SCHEDULER_FIELDS
        )
        return Scheduler(name, optional_text_of(hostname), whole_number(pid), moment_of(heartbeat))

    def health(self, workers: int, other: OtherQueue) -> QueueHealth:
        """Reads what `doctor` checks; `workers` and `other` have been read."""
        with redis_errors(self._client):
            pipeline = self._pipeline()
            pipeline.time()
            pipeline.llen(self._list)
            pipeline.exists(SCHEDULER_LOCKING_KEY_TEMPLATE % self._name)
            pipeline.lrange(self._list, 0, _LEAST_WAITING - 1)
            scheduled = registry_key(ScheduledJobRegistry, self._name)
            pipeline.zrange(scheduled, 0, 0, withscores=True)
            (seconds, microseconds), waiting, has_scheduler, head, delayed = pipeline.execute()
            now = seconds + microseconds / 1e6
            pipeline = self._pipeline()
            for job_id in head:
                pipeline.hget(Job.key_for(text_of(job_id)), "enqueued_at")
            oldest = min(filter(None, map(moment_of, answers_of(pipeline))), default=None)
            keys = cast("set[bytes]", self._client.smembers(WORKERS_BY_QUEUE_KEY % self._name))
            live = [worker for worker in self._workers(keys, now) if worker.alive]
            return QueueHealth(
                waiting=waiting,
                oldest_waits_for=now - oldest.timestamp() if oldest else None,
                workers=workers,
                suspension=read_suspension(self._client),
                # Our workers, which tell how far off their clock is, queue delayed jobs themselves.
                has_scheduler=has_scheduler > 0
                or any(worker.clock_ahead_seconds is not None for worker in live),
                first_delayed_in=delayed[0][1] - now if delayed else None,
                other=other,
                silence=silence_of(live),
                live_workers=live,
            )

    def job(self, job_id: str) -> JobRecord:
        """Reads all that RQ has of one job."""
        with redis_errors(self._client):
            now = server_time(self._client)
            key = Job.key_for(job_id)
            [(status, origin_field, retries_left, worker, limit_key, *times)] = self._hashes(
                [key], _RECORD_FIELDS
            )
            created_at, enqueued_at, started_at, ended_at = map(moment_of, times)
            origin = optional_text_of(origin_field)
            queues = [self._name] if origin in {None, self._name} else [self._name, str(origin)]
            places = [place for queue in queues for place in self._places(job_id, queue)]
            if limit_key:
                limited = f"{RQ_KEY_PREFIX}:rl:{text_of(limit_key)}:rate_limited"
                score = self._client.zscore(limited, job_id)
                if score is not None:
                    place = JobPlace(
                        "rate_limited", queues[-1], score_at=moment_of_timestamp(score)
                    )
                    places.append(place)
            ttl = self._client.pttl(key)
            return JobRecord(
                status=optional_text_of(status),
                origin=origin,
                created_at=created_at,
                enqueued_at=enqueued_at,
                started_at=started_at,
                ended_at=ended_at,
                attempts=None,
                retries_left=whole_number(retries_left),
                worker=optional_text_of(worker),
                expires_in=ttl // 1000 if ttl >= 0 else None,
                places=[*places, *self._executions(job_id, queues, now)],
                last_failure=self._last_failure(job_id),
            )

    def _places(self, job_id: str, queue: str) -> list[JobPlace]:
        """Finds the job in the lists and the registries of a queue."""
        waiting = Queue.redis_queue_namespace_prefix + queue
        pipeline = self._pipeline()
        pipeline.lpos(waiting, job_id, count=0, maxlen=MOST_SEARCHED)
        pipeline.lpos(IntermediateQueue.get_intermediate_queue_key(waiting), job_id, count=0)
        for registry in REGISTRIES.values():
            pipeline.zscore(registry_key(registry, queue), job_id)
        indexes, between, *scores = pipeline.execute()
        return [
            *(JobPlace("list", queue, position=index + 1) for index in indexes),
            *(JobPlace("intermediate", queue, position=index + 1) for index in between),
            *(
                JobPlace(name, queue, score_at=moment_of_timestamp(score))
                for name, score in zip(REGISTRIES, scores, strict=True)
                if score is not None
            ),
        ]

    def _executions(self, job_id: str, queues: Sequence[str], now: float) -> list[JobPlace]:
        """Finds the executions of the job in the registries of running jobs and in its own."""
        pipeline = self._pipeline()
        for queue in queues:
            pipeline.zrange(registry_key(StartedJobRegistry, queue), 0, -1, withscores=True)
        pipeline.zrange(registry_key(ExecutionRegistry, job_id), 0, -1)
        *registered, own = pipeline.execute()
        found: dict[str, tuple[str, float]] = {text_of(each): (queues[-1], 0.0) for each in own}
        for queue, members in zip(queues, registered, strict=True):
            for member, score in members:
                if _job_id(member) == job_id:
                    found[text_of(member).partition(":")[2]] = (queue, score)
        prefix = f"{RQ_KEY_PREFIX}:execution:{job_id}:"
        rows = self._hashes([prefix + each for each in found], ("created_at", "worker_name"))
        return [
            JobPlace(
                "execution",
                queue,
                # The heartbeat of a worker that was paused goes on, and its entry is left behind.
                score_at=moment_of_timestamp(score) if score > now or not known else None,
                alive=score > now or known is not None,
                worker=optional_text_of(worker),
            )
            for (queue, score), (known, worker) in zip(found.values(), rows, strict=True)
        ]

    def _last_failure(self, job_id: str) -> JobFailure | None:
        key = Result.get_key(job_id)  # type: ignore[no-untyped-call]
        pipeline = self._pipeline()
        pipeline.xrevrange(key, count=_MOST_RESULTS)
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


def _from_timestamp_text(value: bytes | None) -> datetime | None:
    with suppress(ValueError):
        if value:
            return moment_of_timestamp(float(value))
    return None


def moment_of(value: bytes | None) -> datetime | None:
    """Parses a time as RQ writes it; returns None for anything else."""
    with suppress(ValueError):
        if value:
            return utcparse(text_of(value))
    return None
