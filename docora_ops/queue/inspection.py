"""Looking into the queue, field by field. Writes nothing and unpickles nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import (
    BaseRegistry,
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
    JobFailure,
    JobPlace,
    JobRecord,
    QueuedJob,
    QueueOverview,
    Scheduler,
    Worker,
)
from docora_ops.queue.job_template import call_of, traceback_of
from docora_ops.queue.redis_client import answers_of, describe, redis_errors
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.settings import Settings

_JOB_FIELDS = ("data", "created_at", "enqueued_at", "started_at")
_RECORD_TIMES = ("created_at", "enqueued_at", "started_at", "ended_at")
_RECORD_FIELDS = (
    *("status", "origin", "retries_left", "worker_name", "rate_limit_key"),
    *_RECORD_TIMES,
)
_WORKER_FIELDS = ("birth", "death", "state", "hostname", "pid", "last_heartbeat")
_SCHEDULER_FIELDS = ("hostname", "pid", "last_heartbeat")
_MOST_RESULTS = 10
"""RQ keeps no more."""
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
            job_ids = self._running(sorted(executions)) if alive else []
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

    def _running(self, executions: Sequence[bytes]) -> list[str]:
        """The jobs of those executions that have not expired."""
        keys = [f"{RQ_KEY_PREFIX}:execution:{_text(each)}" for each in executions]
        known = self._hashes(keys, ("created_at",))
        return [_job_id(each) for each, [at] in zip(executions, known, strict=True) if at]

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

    def job(self, job_id: str) -> JobRecord:
        """What there is of one job, in every place where it stands."""
        with redis_errors(self._where):
            now = self._now()
            key = Job.key_for(job_id)
            [fields] = self._hashes([key], _RECORD_FIELDS)
            texts = {
                name: _text(value) if value else None
                for name, value in zip(_RECORD_FIELDS, fields, strict=True)
            }
            moments = {name: _moment(fields[_RECORD_FIELDS.index(name)]) for name in _RECORD_TIMES}
            origin = texts["origin"]
            queues = [self._name] if origin in {None, self._name} else [self._name, str(origin)]
            places = [place for queue in queues for place in self._places(job_id, queue)]
            if limit_key := texts["rate_limit_key"]:
                limited = f"{RQ_KEY_PREFIX}:rl:{limit_key}:rate_limited"
                score = self._client.zscore(limited, job_id)
                if score is not None:
                    places.append(JobPlace("rate_limited", queues[-1], at=_from_timestamp(score)))
            life = self._client.pttl(key)
            return JobRecord(
                id=job_id,
                status=texts["status"],
                origin=origin,
                **moments,
                retries_left=_number(texts["retries_left"]),
                worker=texts["worker_name"],
                expires_in=life // 1000 if life >= 0 else None,
                places=[*places, *self._executions(job_id, queues, now)],
                last_failure=self._last_failure(job_id),
            )

    def _places(self, job_id: str, queue: str) -> list[JobPlace]:
        """In the list of a queue, on the way to a worker, and in its registries."""
        waiting = Queue.redis_queue_namespace_prefix + queue
        pipeline = self._pipeline()
        pipeline.lpos(waiting, job_id, count=0)
        pipeline.lpos(IntermediateQueue.get_intermediate_queue_key(waiting), job_id, count=0)
        for registry in REGISTRIES.values():
            pipeline.zscore(registry_key(registry, queue), job_id)
        indexes, between, *scores = pipeline.execute()
        return [
            *(JobPlace("list", queue, position=index + 1) for index in indexes),
            *(JobPlace("intermediate", queue, position=index + 1) for index in between),
            *(
                JobPlace(name, queue, at=_from_timestamp(score))
                for name, score in zip(REGISTRIES, scores, strict=True)
                if score is not None
            ),
        ]

    def _executions(self, job_id: str, queues: Sequence[str], now: float) -> list[JobPlace]:
        """As the registries of running jobs have them, and as those that run them do."""
        pipeline = self._pipeline()
        for queue in queues:
            pipeline.zrange(registry_key(StartedJobRegistry, queue), 0, -1, withscores=True)
        pipeline.zrange(registry_key(ExecutionRegistry, job_id), 0, -1)
        *registered, own = pipeline.execute()
        found: dict[str, tuple[str, float]] = {_text(each): (queues[-1], 0.0) for each in own}
        for queue, members in zip(queues, registered, strict=True):
            for member, score in members:
                if _job_id(member) == job_id:
                    found[_text(member).partition(":")[2]] = (queue, score)
        prefix = f"{RQ_KEY_PREFIX}:execution:{job_id}:"
        rows = self._hashes([prefix + each for each in found], ("created_at", "worker_name"))
        return [
            JobPlace(
                "execution",
                queue,
                at=_from_timestamp(score) if score else None,
                alive=score > now or known is not None,
                worker=_text(worker) if worker else None,
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
                milliseconds = _text(entry_id).partition("-")[0]
                worker = fields.get(b"worker_name")
                at = _from_timestamp(int(milliseconds) / 1000)
                return JobFailure(at, _text(worker) if worker else None, text)
        return None

    def _hashes(self, keys: Sequence[str], fields: Sequence[str]) -> list[list[bytes | None]]:
        """These fields of each; of a key that is something else, none."""
        pipeline = self._pipeline()
        for key in keys:
            pipeline.hmget(key, list(fields))
        return [row or [None] * len(fields) for row in answers_of(pipeline)]

    def _pipeline(self) -> Pipeline:
        return self._client.pipeline(transaction=False)

    def _now(self) -> float:
        seconds, microseconds = self._client.time()
        return seconds + microseconds / 1e6

    def _registry(self, registry: type[BaseRegistry]) -> str:
        return registry_key(registry, self._name)


def _job_id(execution: bytes) -> str:
    """The job of an entry of a registry of executions."""
    return _text(execution).partition(":")[0]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _number(text: str | None) -> int | None:
    with suppress(ValueError):
        return int(text or "")
    return None


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
