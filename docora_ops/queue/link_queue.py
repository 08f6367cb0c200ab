"""The RQ queue that the jobs of links stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from redis import Redis
from rq import Queue
from rq.registry import StartedJobRegistry
from rq.suspension import WORKERS_SUSPENDED
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import BullmqQueue, JobState
from docora_ops.links import Outcome, Payload
from docora_ops.queue.audit_stream import ENTRIES_KEPT, AuditEntry, write_entry
from docora_ops.queue.bullmq import read_bullmq
from docora_ops.queue.job_template import JobTemplate
from docora_ops.queue.redis_client import describe, redis_errors
from docora_ops.queue.registries import registry_key
from docora_ops.queue.scripts import JobScript
from docora_ops.queue.sweep import QueueSweep
from docora_ops.queue.waiting_list import LIST_NOT_READ, ExpiredExecutions, WaitingList
from docora_ops.settings import Settings

DELAYED = "delayed"


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A job to push. Without a payload, the push only confirms that the job is live.

    `seen`: evidence of a job that was doubtful at an earlier look; unchanged, the job is stale.
    `is_repeated`: it was pushed a moment ago, after the waiting list was read.
    """

    job_id: str
    payload: Payload | None
    is_rescan: bool
    seen: str = ""
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The state of one job or, after a push, its outcome."""

    job_id: str
    state: JobState
    outcome: Outcome | None = None
    detail: str = ""
    """`enqueued_at` of a doubtful job, why a job is unreadable, or `DELAYED`."""
    enqueued_at: str = ""
    """Of a job that is not live, and may have been queued since the waiting list was read."""

    @property
    def evidence(self) -> str:
        """`enqueued_at` of a job that may be live: it changes when the job is queued anew."""
        return self.detail if self.state is JobState.DOUBTFUL else self.enqueued_at


class LinkQueue:
    """The RQ queue that the jobs of links stand in. All calls raise RedisError."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._client = client
        self._queue = Queue(settings.queue_name, connection=client)
        self._wip_key = registry_key(StartedJobRegistry, settings.queue_name)
        self._script = JobScript(settings, client, "look_and_push.lua")

    @property
    def where(self) -> str:
        """Host and database of Redis."""
        return describe(self._client)

    def read_waiting(self) -> WaitingList:
        """Reads the ids in the queue's list."""
        with redis_errors(self._client):
            return WaitingList.read(self._client, self._queue.key, self._wip_key)

    def read_expired(self) -> ExpiredExecutions:
        """Reads the executions whose heartbeat has expired."""
        with redis_errors(self._client):
            return ExpiredExecutions.read(self._client, self._wip_key)

    def look(
        self,
        job_ids: Sequence[str],
        *,
        waiting: WaitingList | None = None,
        expired: ExpiredExecutions | None = None,
        detailed: bool = False,
        rows_locked: bool = False,
    ) -> list[Answer]:
        """Returns the state of each job; writes nothing.

        `waiting`: the list as read before; without it each id is looked for. `expired`: saves
        reading those again. `detailed`: tells a stale job from none. `rows_locked`: Redis has 4 s.
        """
        arguments: list[str | int] = []
        for job_id in job_ids:
            arguments += (job_id, waiting.hint(job_id) if waiting else LIST_NOT_READ)
        config = self._config(job_ids, waiting, expired) | {"detailed": detailed}
        return self._run("look", job_ids, config, arguments, waiting, rows_locked=rows_locked)

    def push(
        self,
        requests: Sequence[PushRequest],
        *,
        waiting: WaitingList | None = None,
        expired: ExpiredExecutions | None = None,
        front: bool = False,
        audit: Mapping[Outcome, AuditEntry] | None = None,
    ) -> list[Answer]:
        """Queues each job unless it is live, and removes stale jobs, all atomically.

        Called with the rows locked: Redis has 4 s. A waiting job is kept for good, and moved to
        the head if `front` is set. A running, doubtful or unreadable job is left alone, and its
        answer has no outcome. `waiting` or `expired` saves reading all expired executions.
        `audit`: audit entries by outcome; the first outcome that is among them writes its entry.
        """
        template = self._template
        arguments: list[str | int | bytes] = []
        for request in requests:
            arguments += (
                request.job_id,
                waiting.hint(request.job_id)
                if waiting and not request.is_repeated
                else LIST_NOT_READ,
                request.seen.encode(errors="surrogateescape"),
                template.data(request.payload, is_rescan=request.is_rescan)
                if request.payload
                else b"",
                request.payload.description if request.payload else b"",
            )
        job_ids = [request.job_id for request in requests]
        config = self._config(job_ids, waiting, expired)
        config |= {"front": front, "fields": template.fields()}
        if audit:
            config["audit"] = {
                "key": next(iter(audit.values())).key,
                "kept": ENTRIES_KEPT,
                "entries": {
                    reply: audit[outcome].fields
                    for reply, outcome in _OUTCOMES.items()
                    if outcome in audit
                },
            }
        return self._run("push", job_ids, config, arguments, waiting, rows_locked=True)

    def record(self, audit: AuditEntry) -> None:
        """Writes an audit entry by itself."""
        with redis_errors(self._client):
            write_entry(self._client, audit)

    def count_workers(self) -> int:
        """Counts the live workers that listen on the queue."""
        with redis_errors(self._client):
            keys = cast(
                "set[bytes]",
                self._client.smembers(WORKERS_BY_QUEUE_KEY % self._settings.queue_name),
            )
            return self._client.exists(*sorted(keys)) if keys else 0

    def is_suspended(self) -> bool:
        """Whether RQ has told the workers to take no jobs."""
        with redis_errors(self._client):
            return self._client.exists(WORKERS_SUSPENDED) > 0

    def read_bullmq(self) -> BullmqQueue:
        """Tells whether jobs stand in the BullMQ queue, and whether a BullMQ worker runs."""
        with redis_errors(self._client):
            return read_bullmq(self._client)

    @cached_property
    def sweep(self) -> QueueSweep:
        """Finds and removes entries of the whole queue."""
        return QueueSweep(self._settings, self._client)

    @cached_property
    def _template(self) -> JobTemplate:
        return JobTemplate(self._settings, self._client)

    def _config(
        self,
        job_ids: Sequence[str],
        waiting: WaitingList | None,
        expired: ExpiredExecutions | None,
    ) -> dict[str, object]:
        config: dict[str, object] = {"cutoff": ""}
        if waiting:
            config = {"cutoff": waiting.cutoff, "walks": max(waiting.walks_left, 0)}
            expired = waiting.expired
        return config | expired.config(job_ids) if expired else config

    def _run(
        self,
        mode: str,
        job_ids: Sequence[str],
        config: dict[str, object],
        arguments: Sequence[str | int | bytes],
        waiting: WaitingList | None,
        *,
        rows_locked: bool,
    ) -> list[Answer]:
        *replies, walks = self._script.run(mode, config, arguments, rows_locked=rows_locked)
        if waiting:
            waiting.walks_left -= int(walks)
        return [_answer(job_id, reply) for job_id, reply in zip(job_ids, replies, strict=True)]


def _answer(job_id: str, reply: str) -> Answer:
    state, _, detail = reply.partition(":")
    if state in _OUTCOMES:
        return Answer(job_id, JobState.WAITING, _OUTCOMES[state], detail)
    if state in {JobState.NONE, JobState.STALE}:
        return Answer(job_id, JobState(state), enqueued_at=detail)
    return Answer(job_id, JobState(state), detail=detail)


_OUTCOMES = {
    "queued": Outcome.QUEUED,
    "replaced": Outcome.REPLACED_STALE,
    "waiting": Outcome.ALREADY_QUEUED,
}
