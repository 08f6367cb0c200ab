"""Reads and removes entries of RQ's list and registries."""

import json
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import chain, count
from typing import Any

from redis import Redis
from rq.job import Job

from docora_ops.jobs import QUEUE_NAME
from docora_ops.links import batches
from docora_ops.queue.audit_stream import AuditEntry
from docora_ops.queue.redis_client import Script, read_hashes, redis_errors, server_time, text_of
from docora_ops.queue.rq_keys import INTERMEDIATE, LIST, REGISTRIES, SCRIPT_KEYS, WIP

_PAGE = 5000
# Seconds within which live workers recover the link of a killed worker. Each worker looks for such
# links every 30 s, but up to 60 s after its last look if a long job has begun meanwhile.
_RECOVERY_TIME = 90


class Place(StrEnum):
    """A list or registry that can hold job ids. Declared in the order in which jobs move."""

    SCHEDULED = "scheduled"
    DEFERRED = "deferred"
    READY = "ready"
    LIST = "list"
    INTERMEDIATE = "intermediate"
    WIP = "wip"
    FAILED = "failed"
    FINISHED = "finished"
    CANCELED = "canceled"

    @property
    def words(self) -> str:
        """Names the place in a sentence."""
        if self is Place.LIST:
            return "the queue's list"
        return f"the {self} {'list' if self is Place.INTERMEDIATE else 'registry'}"

    def job_id_of(self, member: str) -> str:
        """Returns the id of the job that a member of this list or registry stands for."""
        return member.partition(":")[0] if self is Place.WIP else member


TO_RUN_OR_FAILED = frozenset({Place.LIST, Place.SCHEDULED, Place.DEFERRED, Place.FAILED})
_LISTS = (Place.LIST, Place.INTERMEDIATE)
# Places from which a job is run regardless of its status.
_PICKED_UP = (Place.LIST, Place.INTERMEDIATE, Place.SCHEDULED)
# The place where a job with this status waits. Jobs of links have no rate limit.
_WAITING = {
    "queued": Place.LIST,
    "scheduled": Place.SCHEDULED,
    "deferred": Place.DEFERRED,
    "ready_to_enqueue": Place.READY,
}
_TAKEN_FROM = tuple(place for place in Place if place in {*_PICKED_UP, *_WAITING.values()})
# The statuses allowed in a place; other places allow any status.
_STATUSES = {
    Place.WIP: {"started"},
    Place.DEFERRED: {"deferred"},
    Place.READY: {"ready_to_enqueue"},
    Place.FAILED: {"failed", "stopped"},
    Place.FINISHED: {"finished"},
    Place.CANCELED: {"canceled"},
}
# RQ removes expired entries of these registries itself; a score below 0 never expires.
_EXPIRING = {Place.FAILED, Place.FINISHED}
_KEYS = {
    Place.LIST: LIST,
    Place.INTERMEDIATE: INTERMEDIATE,
    Place.WIP: WIP,
    **{Place(name): key for name, key in REGISTRIES.items()},
}


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Fields of a job's hash; empty if the field or the job is missing."""

    status: str
    enqueued_at: str
    origin: str = ""  # the name of its queue

    @property
    def evidence(self) -> str:
        """Identifies the state of the job by its status and queueing time."""
        return f"{self.status} {self.enqueued_at}"

    def is_misplaced(self, places: Iterable[Place]) -> bool:
        """Tells whether the job reads as waiting, but is in no place from which RQ would take it.

        Returns False for a job of another queue, because the job may wait there.

        places: all places that hold the job.
        """
        if self.status not in _WAITING or self.origin not in {"", QUEUE_NAME}:
            return False
        return {_WAITING[self.status], *_PICKED_UP}.isdisjoint(places)


@dataclass(frozen=True, slots=True)
class Removal:
    """The entries or keys of one job to remove, unless the job has changed since it was read."""

    job_id: str
    evidence: str  # `JobFacts.evidence` when the job was read
    kept: int | None = None  # how many of its first entries in the list to keep; None keeps all
    entries: Sequence[tuple[str, str]] = ()  # (key of a registry or the intermediate list, member)
    is_orphan: bool = False  # remove the job itself and all its keys


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of jobs in all places.

    by_place: how many entries each job has in each place.
    executions: the members of the registry WIP, by job id.
    """

    by_place: Mapping[Place, Mapping[str, int]]
    executions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def job_ids(self) -> Iterator[str]:
        """Yields the ids of the jobs that have an entry, without duplicates."""
        before: list[Mapping[str, int]] = []
        for job_ids in self.by_place.values():
            for job_id in job_ids:
                if not any(job_id in earlier for earlier in before):
                    yield job_id
            before.append(job_ids)

    def places_of(self, job_id: str) -> list[Place]:
        """Returns the places that hold the job."""
        return [place for place, job_ids in self.by_place.items() if job_id in job_ids]

    def orphan(self, job_id: str, facts: JobFacts) -> Removal:
        """Returns the removal of the job, with all its entries."""
        kept = 0 if job_id in self.by_place[Place.LIST] else None
        return Removal(job_id, facts.evidence, kept, is_orphan=True)

    def duplicate(self, job_id: str, facts: JobFacts) -> Removal | None:
        """Returns the removal of the job's duplicates; None without any, or if the job is gone.

        If the job is in the list, its later entries there and its entry in the scheduled registry
        are duplicates. Otherwise, there are no duplicates.
        """
        in_list = self.by_place[Place.LIST].get(job_id, 0)
        is_scheduled = job_id in self.by_place[Place.SCHEDULED]
        if not facts.status or not in_list or in_list + is_scheduled == 1:
            return None
        entries = [(_KEYS[Place.SCHEDULED], job_id)] if is_scheduled else []
        return Removal(job_id, facts.evidence, 1, entries)

    def stale(self, job_id: str, facts: JobFacts) -> tuple[list[Place], Removal]:
        """Returns the places that contradict the job's status, and the removal of their entries."""
        places = [
            place
            for place in self.places_of(job_id)
            if not facts.status or facts.status not in _STATUSES.get(place, {facts.status})
        ]
        entries = [
            (_KEYS[place], member)
            for place in places
            if place is not Place.LIST
            for member in (self.executions[job_id] if place is Place.WIP else [job_id])
        ]
        kept = 0 if Place.LIST in places else None
        return places, Removal(job_id, facts.evidence, kept, entries)


class QueueSweep:
    """Reads and removes entries of the whole queue. All methods raise RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._script = Script(client, "denials.lua", "judge.lua", "sweep.lua")

    def read(self, only: Container[str] | None = None) -> Entries:
        """Reads all entries, in pages that block Redis only for a few milliseconds each.

        Reads the places in the order in which jobs move, and the list from its tail, so that a job
        that moves during the read is seen twice rather than missed.

        only: read only the entries of these jobs; None means all.
        """
        with redis_errors(self._client):
            now = server_time(self._client)
            by_place: dict[Place, dict[str, int]] = {place: {} for place in Place}
            executions: defaultdict[str, list[str]] = defaultdict(list)
            for place, counts in by_place.items():
                for member in chain.from_iterable(self.pages(place, now)):
                    job_id = place.job_id_of(member)
                    if only is None or job_id in only:
                        counts[job_id] = counts.get(job_id, 0) + 1
                        if place is Place.WIP:
                            executions[job_id].append(member)
            return Entries(by_place, executions)

    def pages(self, place: Place, now: float) -> Iterator[Iterable[str]]:
        """Yields the entries of a place in pages; those of a list from its tail.

        now: omit failed and finished jobs whose entries have expired by this Unix time.
        """
        client, key = self._client, _KEYS[place]
        for start in count(0, _PAGE):
            # Jobs that are pushed meanwhile shift the rest, so an id at the border of two pages may
            # be read twice. A duplicate only counts if a second look finds the same one.
            if place in _LISTS:
                page: Any = client.lrange(key, -start - _PAGE, -start - 1)
                members = page
            else:
                page = client.zrange(key, start, start + _PAGE - 1, withscores=True)
                is_kept = place not in _EXPIRING
                members = [member for member, score in page if is_kept or not 0 <= score <= now]
            yield map(text_of, members)
            if not page:
                break

    def recent_runs(self) -> set[str]:
        """Returns the ids of jobs that run, or whose heartbeat expired less than 90 s ago."""
        with redis_errors(self._client):
            since = server_time(self._client) - _RECOVERY_TIME
            runs: Any = self._client.zrange(WIP, f"({since}", "+inf", byscore=True)
            return {Place.WIP.job_id_of(text_of(run)) for run in runs}

    def search(self, job_id: str) -> Entries:
        """Finds the entries of one job in the places from which workers take jobs."""
        pipeline = self._client.pipeline(transaction=False)
        with redis_errors(self._client):
            for place in _TAKEN_FROM:
                if place in _LISTS:
                    pipeline.lpos(_KEYS[place], job_id)
                else:
                    pipeline.zscore(_KEYS[place], job_id)
            positions = zip(_TAKEN_FROM, pipeline.execute(), strict=True)
        return Entries({place: {job_id: 1} for place, at in positions if at is not None})

    def _drop_placed(self, job_ids: set[str]) -> Entries:
        """Drops jobs from `job_ids` that are in a place from which RQ takes jobs of any status.

        Such jobs are not misplaced. Returns the entries in the other places from which RQ takes
        jobs; from each of them, it takes only jobs of one status.
        """
        entries = {}
        with redis_errors(self._client):
            for place in _TAKEN_FROM:  # whose entries never expire
                if place in _PICKED_UP:
                    for page in self.pages(place, now=0):
                        job_ids.difference_update(page)
                else:
                    ids = chain.from_iterable(self.pages(place, now=0))
                    entries[place] = dict.fromkeys(job_ids.intersection(ids), 1)
        return Entries(entries)

    def read_facts(self, job_ids: Collection[str]) -> dict[str, JobFacts]:
        """Reads status, queue and queueing time of each job."""
        with redis_errors(self._client):
            keys = map(Job.key_for, job_ids)
            rows = read_hashes(self._client, keys, ("status", "enqueued_at", "origin"))
        return {
            job_id: JobFacts(*(text_of(value or b"") for value in row))
            for job_id, row in zip(job_ids, rows, strict=True)
        }

    def misplaced(self, job_ids: Collection[str], entries: Entries | None = None) -> dict[str, str]:
        """Returns the evidence of each misplaced job, by job id (see `JobFacts.is_misplaced`).

        entries: the entries of the jobs; None means to read them.
        """
        if not (left := set(job_ids)):
            return {}
        if entries is None:
            entries = self.search(*left) if len(left) == 1 else self._drop_placed(left)
        left.difference_update(entries.by_place.get(Place.LIST, ()))
        return {
            job_id: facts.evidence
            for page in batches(list(left), _PAGE)
            for job_id, facts in self.read_facts(page).items()
            if facts.is_misplaced(entries.places_of(job_id))
        }

    def remove(self, removals: Sequence[Removal], audit: AuditEntry | None = None) -> list[str]:
        """Removes jobs and entries that have not changed since they were read.

        Returns for each removal `removed`, `changed` or `unreadable:REASON`. Call it while the rows
        of the orphans' repositories are locked in Postgres.

        audit: the audit entry to write if anything is removed.
        """
        config = SCRIPT_KEYS | ({"entry": audit} if audit else {})
        jobs = [json.dumps(asdict(removal)) for removal in removals]
        return self._script.run(["remove", json.dumps(config), *jobs])
