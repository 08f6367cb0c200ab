"""Inspects and removes entries of the queue's list and registries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from redis import Redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import StartedJobRegistry

from docora_ops.batches import batches
from docora_ops.drift import Drift, Repaired, RepairOutcome
from docora_ops.jobs import JobState
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.job_template import calls_for_link
from docora_ops.queue.redis_client import answers_of, redis_errors
from docora_ops.queue.registries import REGISTRIES, registry_key
from docora_ops.queue.sweep_script import SweepScript
from docora_ops.queue.waiting_list import LIST_NOT_READ, WaitingList
from docora_ops.settings import Settings

_PAGE = 5000
_INSPECTED_AT_ONCE = 250
"""Jobs of one call of the script, so that Redis is held for a few milliseconds."""


class Place(StrEnum):
    """A list or registry that can hold the id of a job."""

    LIST = "list"
    INTERMEDIATE = "intermediate"
    WIP = "wip"
    SCHEDULED = "scheduled"
    DEFERRED = "deferred"
    FAILED = "failed"
    FINISHED = "finished"
    CANCELED = "canceled"


TO_RUN_OR_FAILED = frozenset({Place.LIST, Place.SCHEDULED, Place.DEFERRED, Place.FAILED})


class Problem(StrEnum):
    """The fault of a job's entries in one place.

    `GONE`: the job does not exist. `CONTRADICTS`: its status does not belong in this place.
    `TWICE`: it stands in the list more than once.
    """

    NONE = "ok"
    GONE = "gone"
    CONTRADICTS = "contradicts"
    TWICE = "twice"


@dataclass(frozen=True, slots=True)
class InspectedJob:
    """A job that has entries, or had some a moment ago. `problems`: in each place that has any."""

    job_id: str
    state: JobState
    problems: Mapping[Place, Problem]
    status: str  # empty if the job itself is gone


class QueueSweep:
    """Goes through all entries of the queue. All calls raise RedisError."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._client = client
        self._function = settings.job_function
        self._name = settings.queue_name
        self._script = SweepScript(settings, client, "sweep.lua")

    def pages(self, place: Place) -> Iterator[list[str]]:
        """Yields the job ids in this place, some thousand at a time.

        An id may come twice, or not at all if the place changes meanwhile.
        """
        start = 0
        while ids := self._page(place, start):
            start += len(ids)
            yield [job_id.decode(errors="replace") for job_id in ids]

    def inspect(self, job_ids: Sequence[str], waiting: WaitingList | None) -> list[InspectedJob]:
        """Compares these jobs with their entries; writes nothing.

        `waiting` is the list as read before; without it, Redis searches the list for each id.
        """
        found: list[InspectedJob] = []
        for some in batches(job_ids, _INSPECTED_AT_ONCE):
            arguments: list[str | int] = []
            for job_id in some:
                arguments += (job_id, waiting.hint(job_id) if waiting else LIST_NOT_READ)
            answers = self._script.run("inspect", some, arguments, waiting)
            found += map(_inspected, some, answers)
        return found

    def prepare(self) -> None:
        """Connects and loads the script before rows are locked."""
        self._script.prepare()

    def remove(
        self, drifts: Sequence[Drift], waiting: WaitingList, audit: AuditEntry | None = None
    ) -> list[Repaired]:
        """Removes orphans, duplicates and stale entries, unless they have changed.

        `waiting` is the list as read before. Redis has a few seconds, since rows are locked.
        `audit` is written if anything is removed.
        """
        job_ids = [drift.job_id for drift in drifts]
        arguments: list[str | int] = []
        for drift in drifts:
            arguments += (drift.job_id, waiting.hint(drift.job_id), drift.kind.value)
        answers = self._script.run(
            "remove",
            job_ids,
            arguments,
            waiting,
            rows_locked=True,
            audit=audit and {"removed": audit.xadd},
        )
        return list(map(_repaired, drifts, answers))

    def made_for_links(self, job_ids: Collection[str]) -> set[str]:
        """Returns the ids of jobs that call our function with the ids of a link."""
        if not job_ids:
            return set()
        with redis_errors(self._client), self._client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hget(Job.key_for(job_id), "data")
            calls = answers_of(pipeline)
        return {
            job_id
            for job_id, data in zip(job_ids, calls, strict=True)
            if data and calls_for_link(data, self._function, job_id)
        }

    def _page(self, place: Place, start: int) -> list[bytes]:
        queue = Queue(self._name, connection=self._client)
        with redis_errors(self._client):
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


def _inspected(job_id: str, answer: str) -> InspectedJob:
    if answer.startswith("unreadable:"):
        return InspectedJob(job_id, JobState.UNREADABLE, {}, "")
    state, entries, status = answer.split(" ", 2)
    pairs = (entry.split(":") for entry in entries.split(",") if entry)
    problems = {Place(place): Problem(problem) for place, problem in pairs}
    # Anybody may have written the status.
    status = status.encode(errors="replace").decode()
    # A doubtful job is in no list.
    return InspectedJob(
        job_id, JobState.NONE if state == "doubtful" else JobState(state), problems, status
    )


def _repaired(drift: Drift, answer: str) -> Repaired:
    state, _, reason = answer.partition(":")
    match state:
        case "removed":
            return Repaired(drift, RepairOutcome.REMOVED)
        case "unreadable":
            error = f"its Redis key does not hold a job: {reason}"
            return Repaired(drift, RepairOutcome.NOT_REPAIRED, error)
    return Repaired(drift, RepairOutcome.LEFT_ALONE)
