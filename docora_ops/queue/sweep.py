"""Entries of the queue's list and registries that should not be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import cast

from redis import Redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import StartedJobRegistry

from docora_ops.queue.audit_stream import ENTRIES_KEPT, AuditEntry
from docora_ops.queue.job_template import calls_for_link
from docora_ops.queue.redis_client import answers_of, describe, redis_errors
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.queue.scripts import JobScript
from docora_ops.queue.waiting_list import ExpiredExecutions
from docora_ops.settings import Settings

_PAGE = 5000


class Place(StrEnum):
    """Where the id of a job can stand."""

    LIST = "list"
    INTERMEDIATE = "intermediate"
    WIP = "wip"
    SCHEDULED = "scheduled"
    DEFERRED = "deferred"
    FAILED = "failed"
    FINISHED = "finished"
    CANCELED = "canceled"


TO_BE_RUN = frozenset({Place.LIST, Place.SCHEDULED, Place.DEFERRED})
TO_RUN_OR_FAILED = TO_BE_RUN | {Place.FAILED}


class EntryState(StrEnum):
    """What an entry says, compared with its job."""

    ABSENT = "absent"
    RUNNING = "running"
    OK = "ok"
    ELSEWHERE = "elsewhere"
    """The job belongs to another queue."""
    GONE = "gone"
    """The entry is there, its job is not."""
    CONTRADICTS = "contradicts"
    """The job is in a state that does not belong there."""
    TWICE = "twice"
    SCHEDULED = "scheduled"
    """The id stands in the list and in the schedule."""
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Entry:
    """One id in one place. `status`: the job's, where it contradicts."""

    job_id: str
    place: Place
    state: EntryState
    status: str = ""


class Removal(StrEnum):
    """What to take away."""

    ORPHAN = "orphan"
    """The job, from everywhere."""
    DUPLICATE = "duplicate"
    """All but the job's first place in the list."""
    STALE = "stale"
    """The entries of a job that is gone, or is in another state."""


class RemovalAnswer(StrEnum):
    """What came of it."""

    REMOVED = "removed"
    ABSENT = "absent"
    """It has been seen to by somebody else."""
    RUNNING = "running"
    """It is, or may be, in a worker's hand."""
    UNREADABLE = "unreadable"


class QueueSweep:
    """Looks through all that stands in the queue. All calls raise RedisError."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._client = client
        self._where = describe(settings)
        self._function = settings.job_function
        self._name = settings.queue_name
        self._script = JobScript(settings, client, "sweep.lua")

    @cached_property
    def _expired(self) -> ExpiredExecutions:
        with redis_errors(self._where):
            return ExpiredExecutions.read(
                self._client, registry_key(StartedJobRegistry, self._name)
            )

    def pages(self, place: Place) -> Iterator[list[str]]:
        """The ids that stand there, some thousand at a time.

        Where others push and remove meanwhile, an id may come twice or not at all.
        """
        start = 0
        seen: set[str] = set()
        while ids := self._page(place, start):
            start += len(ids)
            job_ids = [job_id.decode(errors="replace") for job_id in ids]
            if place is Place.WIP:
                # An entry for each execution: thousands may be of one job.
                job_ids = [job_id for job_id in dict.fromkeys(job_ids) if job_id not in seen]
                seen.update(job_ids)
            yield job_ids

    def check(self, place: Place, job_ids: Sequence[str], *, exact: bool) -> list[Entry]:
        """What the entries of these ids in this place say; writes nothing.

        `exact`: look for the ids in the list, and count them there; otherwise they were read from
        it a moment ago, each once.
        """
        config: dict[str, object] = {"place": place, "exact": exact, "cutoff": ""}
        config |= self._expired.config(job_ids)
        answers = self._script.run("check", config, job_ids)
        return [
            Entry(job_id, place, EntryState(state), status.encode(errors="replace").decode())
            for job_id, (state, _, status) in zip(
                job_ids, (answer.partition(":") for answer in answers), strict=True
            )
        ]

    def remove(
        self, items: Sequence[tuple[Removal, str]], audit: AuditEntry | None = None
    ) -> list[tuple[RemovalAnswer, str]]:
        """Remove each if it still is what it was taken for; returns answers with their reasons.

        Redis has a few seconds, since rows are locked. `audit` goes into the audit trail if
        anything is removed.
        """
        config: dict[str, object] = {"cutoff": ""}
        config |= self._expired.config([job_id for _, job_id in items])
        if audit:
            config["audit"] = {"key": audit.key, "kept": ENTRIES_KEPT, "entry": audit.fields}
        arguments = [text for removal, job_id in items for text in (removal.value, job_id)]
        answers = self._script.run("mend", config, arguments, rows_locked=True)
        return [
            (RemovalAnswer(answer), reason)
            for answer, _, reason in (answer.partition(":") for answer in answers)
        ]

    def made_for(self, job_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """App and repository id of each job that calls our function with the ids of its own id."""
        with redis_errors(self._where), self._client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(Job.key_for(job_id), "data")
            calls = answers_of(pipeline)
        found = {}
        for job_id, data in zip(job_ids, calls, strict=True):
            ids = calls_for_link(data, self._function, job_id) if data else None
            if ids is not None:
                found[job_id] = ids
        return found

    def _page(self, place: Place, start: int) -> list[bytes]:
        queue = Queue(self._name, connection=self._client)
        with redis_errors(self._where):
            if place is Place.LIST:
                # From its tail, since workers pop its head.
                return cast(
                    "list[bytes]", self._client.lrange(queue.key, -start - _PAGE, -start - 1)
                )
            if place is Place.INTERMEDIATE:
                key = IntermediateQueue.get_intermediate_queue_key(queue.key)
                return cast("list[bytes]", self._client.lrange(key, start, start + _PAGE - 1))
            registry = StartedJobRegistry if place is Place.WIP else REGISTRIES[place]
            key = registry_key(registry, self._name)
            members = cast("list[bytes]", self._client.zrange(key, start, start + _PAGE - 1))
        if place is Place.WIP:
            return [member.partition(b":")[0] for member in members]
        return members
