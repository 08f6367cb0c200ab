"""The RQ queue of link jobs. Nothing here unpickles, and only `push` writes: RQ does both."""

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar

from rq import Queue, Retry
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat, utcparse  # noqa: TID251 - as other producers do
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.links import QUEUE_NAME, Backend, Link
from docora_ops.queue.backend import Found, LinkQueue, QueueCounts, QueuedJob, Worker
from docora_ops.queue.connection import (
    moment_of,
    pages,
    redis_errors,
    replies,
    server_time,
    text_of,
)
from docora_ops.settings import FAILURE_TTL, RESULT_TTL
from docora_ops.text import inert

JOB_FUNCTION = "docora_ops.worker.snapshot_job.snapshot"
LIST = Queue.redis_queue_namespace_prefix + QUEUE_NAME
INTERMEDIATE = IntermediateQueue.get_intermediate_queue_key(LIST)  # jobs just taken by workers
WIP = StartedJobRegistry.key_template.format(QUEUE_NAME)  # JOB_ID:EXECUTION_ID of running jobs
SCHEDULED = ScheduledJobRegistry.key_template.format(QUEUE_NAME)
FAILED = FailedJobRegistry.key_template.format(QUEUE_NAME)
FINISHED = FinishedJobRegistry.key_template.format(QUEUE_NAME)
CLEANING = "docora-ops:cleaning"  # exists while a worker cleans up after killed ones
_WAITING = [
    SCHEDULED,
    DeferredJobRegistry.key_template.format(QUEUE_NAME),
    ReadyJobRegistry.key_template.format(QUEUE_NAME),
]
_EXECUTION = f"{RQ_KEY_PREFIX}:execution:"
_WORKERS = WORKERS_BY_QUEUE_KEY % QUEUE_NAME
_KEYS: dict[str, object] = {
    "queues": Queue.redis_queues_keys,
    "list": LIST,
    "intermediate": INTERMEDIATE,
    "wip": WIP,
    "cleaning": CLEANING,
    "waiting_registries": _WAITING,
    "registries": [
        *_WAITING,
        FAILED,
        FINISHED,
        CanceledJobRegistry.key_template.format(QUEUE_NAME),
    ],
    "job": Job.redis_job_namespace_prefix,
    "results": f"{RQ_KEY_PREFIX}:results:",
    "executions": ExecutionRegistry.key_template.format(""),
    "execution": _EXECUTION,
}
_PAYLOAD = (
    *("app_id", "app_name", "repository_id", "github_url", "owner", "name", "base_url"),
    *("github_token_encrypted", "client_auth_key_encrypted"),
)
_JOB_FIELDS = ("status", "created_at", "started_at", "worker_name")


class RqQueue(LinkQueue):
    """The queue of RQ, from which our own workers take their jobs."""

    backend: ClassVar[Backend] = Backend.RQ
    script: ClassVar[str] = "push.lua"

    def look(self, job_ids: Sequence[str]) -> list[Found]:
        return self._run(["look", json.dumps(_KEYS), *job_ids])

    def push(
        self,
        links: Sequence[Link],
        is_rescan: Callable[[Link], bool],
        looked_at: datetime | None = None,
    ) -> list[Found]:
        config = _KEYS | {"fields": self._fields()}
        if looked_at:
            config["looked_at"] = utcformat(looked_at)
        arguments: list[str | bytes] = ["push", json.dumps(config)]
        for link in links:
            names = {name: getattr(link, name) for name in _PAYLOAD}
            call = (JOB_FUNCTION, None, (), names | {"is_rescan": is_rescan(link)})
            # Not compressed: RQ accepts that, and compression would take as long as the push.
            data = pickle.dumps(call, protocol=pickle.HIGHEST_PROTOCOL)
            description = f"{inert(link.repository_name)} → {inert(link.app_name)}"
            arguments += (link.job_id, data, description)
        return self._run(arguments)

    def _fields(self) -> list[str]:
        """Returns the fields that all jobs share, names and values alternating.

        Taken from one job that RQ builds, because building every job would be slow. RQ reads a
        missing field as an empty one.
        """
        delays = self.settings.retry_delays
        job = Queue(QUEUE_NAME, connection=self.client).create_job(
            JOB_FUNCTION,
            timeout=self.settings.job_timeout,
            result_ttl=RESULT_TTL,
            failure_ttl=FAILURE_TTL,
            description="",
            retry=Retry(max=len(delays), interval=delays) if delays else None,
        )
        job.enqueued_at = now()
        fields: list[str] = []
        for name, value in job.to_dict().items():
            text = str(getattr(value, "value", value))
            if text and name not in {"data", "description"}:
                fields += (name, text)
        return fields

    def live_ids(self) -> Iterator[Sequence[str]]:
        # A job moves from a registry to the list, to the intermediate list, and then runs: read in
        # this order, none is missed that is live throughout.
        with redis_errors(self.client):
            for registry in _WAITING:
                yield [text_of(job_id) for job_id in self.client.zrange(registry, 0, -1)]
            yield from pages(self.client, LIST)
            yield from pages(self.client, INTERMEDIATE)
            yield self._running()

    def _running(self) -> list[str]:
        """Returns the ids of the jobs with a live execution."""
        members = [text_of(member) for member in self.client.zrange(WIP, 0, -1)]
        pipeline = self.client.pipeline(transaction=False)
        for member in members:
            pipeline.exists(_EXECUTION + member)
        alive = pipeline.execute()
        pairs = zip(members, alive, strict=True)
        return [_job_id(member) for member, is_alive in pairs if is_alive]

    def counts(self) -> QueueCounts:
        with redis_errors(self.client):
            pipeline = self.client.pipeline(transaction=False)
            pipeline.llen(LIST)
            pipeline.llen(INTERMEDIATE)
            pipeline.zcard(SCHEDULED)
            pipeline.zcard(FINISHED)
            pipeline.zcard(FAILED)
            pipeline.exists(WORKERS_SUSPENDED)
            pipeline.lindex(LIST, 0)
            length, taken, delayed, finished, failed, suspended, first = replies(pipeline)
            running = self._running()
            enqueued_at = self.client.hget(Job.key_for(text_of(first)), "enqueued_at")
        return QueueCounts(
            waiting=(length or 0) + (taken or 0),
            active=len(running),
            delayed=delayed or 0,
            completed=finished or 0,
            failed=failed or 0,
            is_suspended=bool(suspended),
            oldest_waiting_at=_moment(enqueued_at),
        )

    def workers(self) -> list[Worker]:
        with redis_errors(self.client):
            keys = sorted(text_of(key) for key in self.client.smembers(_WORKERS))
            pipeline = self.client.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(key, "birth", "death", "hostname", "last_heartbeat")
            for key in keys:
                pipeline.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(_worker_name(key)))
            rows = replies(pipeline)
            time = server_time(self.client) if keys else 0
        workers = []
        for key, row, running in zip(keys, rows[: len(keys)], rows[len(keys) :], strict=True):
            birth, death, host, heartbeat = row or [None] * 4
            if not birth or death:  # its key has expired, or it has ended
                continue
            seen_at = _moment(heartbeat)
            workers.append(
                Worker(
                    name=_worker_name(key),
                    host=text_of(host) or None,
                    job_id=min(map(_job_id, running or ()), default=None),
                    seen_seconds=max(0, int(time - seen_at.timestamp())) if seen_at else None,
                )
            )
        return workers

    def is_suspended(self) -> bool:
        with redis_errors(self.client):
            return bool(self.client.exists(WORKERS_SUSPENDED))

    def sample(self, limit: int) -> list[str]:
        with redis_errors(self.client):
            pipeline = self.client.pipeline(transaction=False)
            pipeline.lrange(LIST, 0, limit - 1)
            pipeline.zrange(SCHEDULED, 0, limit - 1)
            waiting, delayed = replies(pipeline)
        return [text_of(job_id) for job_id in [*(waiting or ()), *(delayed or ())]][:limit]

    def has_keys(self) -> bool:
        keys = (LIST, INTERMEDIATE, WIP, *_WAITING, FAILED, FINISHED)
        with redis_errors(self.client):
            return bool(self.client.exists(*keys))

    def read_job(self, job_id: str) -> QueuedJob:
        [found] = self.look([job_id])
        with redis_errors(self.client):
            pipeline = self.client.pipeline(transaction=False)
            pipeline.hmget(Job.key_for(job_id), *_JOB_FIELDS)
            pipeline.zscore(SCHEDULED, job_id)
            row, due = replies(pipeline)
        status, created_at, started_at, worker = row or [None] * len(_JOB_FIELDS)
        return QueuedJob(
            job_id=job_id,
            state=found.state,
            status=text_of(status) or None,
            created_at=_moment(created_at),
            started_at=_moment(started_at),
            due_at=moment_of(due),
            worker=text_of(worker) or None,
        )


def _worker_name(key: str) -> str:
    return key.rpartition(":")[2]


def _job_id(composite_key: bytes | str) -> str:
    """Returns the first part of JOB_ID:EXECUTION_ID."""
    return text_of(composite_key).partition(":")[0]


def _moment(value: Any) -> datetime | None:
    try:
        return utcparse(text_of(value)) if value else None
    except ValueError:  # another program wrote it
        return None
