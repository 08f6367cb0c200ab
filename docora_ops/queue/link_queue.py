"""Jobs of links in the RQ queue: where they stand, and pushing them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.suspension import WORKERS_SUSPENDED
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from docora_ops.jobs import BullmqQueue, JobState
from docora_ops.links import Outcome, Payload
from docora_ops.queue.audit_stream import ENTRIES_KEPT, AuditEntry, write_entry
from docora_ops.queue.bullmq import read_bullmq
from docora_ops.queue.job_template import JobTemplate, names_link
from docora_ops.queue.redis_client import describe, redis_errors
from docora_ops.queue.registries import registry_key
from docora_ops.queue.scripts import JobScript
from docora_ops.queue.sweep import QueueSweep
from docora_ops.queue.waiting_list import LIST_NOT_READ, ExpiredExecutions, WaitingList
from docora_ops.settings import Settings

_JOB_ID = re.compile(r"[A-Za-z0-9_-]+")
DELAYED = "delayed"


def is_valid_job_id(job_id: str) -> bool:
    """Whether RQ accepts the id: letters, digits, `_` and `-` only."""
    return _JOB_ID.fullmatch(job_id) is not None


@dataclass(frozen=True, slots=True)
class PushRequest:
    """One link's job to push, or, without a payload, only to confirm that it is live.

    `seen`: the `enqueued_at` of a job that was doubtful a moment ago. If it is so still, it is a
    leftover. `is_repeated`: it was pushed a moment ago, so the waiting list as read tells nothing.
    """

    job_id: str
    payload: Payload | None
    is_rescan: bool
    seen: str = ""
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the queue says of one link's job: its state or, after a push, the outcome.

    `detail`: of a doubtful job its `enqueued_at`, of an unreadable one the reason, of a waiting one
    that is in no list `DELAYED`.
    """

    job_id: str
    state: JobState
    outcome: Outcome | None = None
    detail: str = ""
    enqueued_at: str = ""
    """Of a job that is not live, and that may have been queued since the waiting list was read."""


class LinkQueue:
    """The RQ queue that the jobs of links stand in. All calls raise RedisError."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._settings = settings
        self._client = client
        self._where = describe(settings)
        self._queue = Queue(settings.queue_name, connection=client)
        self._wip_key = registry_key(StartedJobRegistry, settings.queue_name)
        self._script = JobScript(settings, client, "links.lua")

    @property
    def where(self) -> str:
        """Host and database of Redis."""
        return self._where

    def read_waiting(self) -> WaitingList:
        """Read once which ids wait in the queue's list."""
        with redis_errors(self._where):
            return WaitingList.read(self._client, self._queue.key, self._wip_key)

    def read_expired(self) -> ExpiredExecutions:
        """Read once which executions in the registry of running jobs have expired."""
        with redis_errors(self._where):
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
        """Where each job stands; writes nothing.

        `waiting`: the list as read before; without it each id is looked for. `detailed`: tell
        leftovers (`STALE`) from nothing at all (`NONE`); `expired` saves reading those again.
        `rows_locked`: Redis has a few seconds.
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
        """Queue each job unless it is live; leftovers of dead jobs are removed in the same step.

        To be called with the rows locked, so Redis has a few seconds.

        A live waiting job stays as it is, for good, and moves to the head if `front` is set. A
        running, doubtful or unreadable one is left alone: its answer has no outcome. `waiting` or
        `expired` saves reading all executions that have expired. `audit`: what
        goes into the audit trail, once, by the first outcome that is named there.
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
        """Write an entry of the audit trail by itself."""
        with redis_errors(self._where):
            write_entry(self._client, audit)

    def is_made_for(self, job_id: str, app_id: str) -> bool:
        """Whether the job of this id, if there is one, was made for a link of this app.

        Redis has a few seconds: the row may be locked.
        """
        client = self._script.client_with_rows_locked
        with redis_errors(self._where, rows_locked=True):
            data = cast("bytes | None", client.hget(Job.key_for(job_id), "data"))
        return data is None or names_link(data, app_id)

    def count_workers(self) -> int:
        """How many live workers listen on the queue."""
        with redis_errors(self._where):
            keys = cast(
                "set[bytes]",
                self._client.smembers(WORKERS_BY_QUEUE_KEY % self._settings.queue_name),
            )
            return self._client.exists(*sorted(keys)) if keys else 0

    def is_suspended(self) -> bool:
        """Whether RQ has told the workers to take no jobs."""
        with redis_errors(self._where):
            return self._client.exists(WORKERS_SUSPENDED) > 0

    def read_bullmq(self) -> BullmqQueue:
        """Tells whether jobs stand in the BullMQ queue, and whether a BullMQ worker runs."""
        with redis_errors(self._where):
            return read_bullmq(self._client)

    @cached_property
    def sweep(self) -> QueueSweep:
        """For looking through all that stands in the queue."""
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
