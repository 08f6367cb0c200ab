"""What both stores hold of some links at one moment, and what is to become of them."""

from __future__ import annotations

import pickle
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.results import Result
from rq.utils import now

from docora_ops.jobs import JobState
from docora_ops.links import Outcome
from tests.support.docora import INTERMEDIATE, QUEUE, REGISTRIES, WIP, Docora
from tests.support.rows import TestLink

WAITING = frozenset({"queued", "scheduled", "deferred", "ready_to_enqueue", "rate_limited"})
UNFINISHED = frozenset({"pending_snapshot", "scanning"})
LIVE = frozenset({JobState.RUNNING, JobState.WAITING})

_ROWS = """
SELECT l.app_id, l.repository_id, l.status, l.retry_count, l.last_error, l.xmin::text AS version,
    (SELECT count(*) FROM app_delivered_files d
     WHERE d.app_id = l.app_id AND d.repository_id = l.repository_id) AS deliveries,
    l.last_scanned_at IS NULL OR l.last_scanned_at < now() - interval '5 minutes' AS old,
    r.circuit_open_until IS NULL AS never_tripped,
    coalesce(r.circuit_open_until > now(), false) AS tripped
FROM app_repositories l JOIN repositories r USING (repository_id)
"""
_LOCKED = """
SELECT id FROM unnest(%s::text[]) AS id JOIN pg_locks ON locktype = 'advisory'
    AND (classid::bigint << 32 | objid::bigint) = hashtextextended(id, 0)
"""


@dataclass(frozen=True)
class Row:
    """A link in Postgres. `version` changes whenever the row is written."""

    status: str
    retry_count: int
    last_error: str | None
    version: str
    deliveries: int
    old: bool
    never_tripped: bool
    tripped: bool

    @property
    def is_due(self) -> bool:
        """Whether a pass of the schedule has to see to it."""
        wanted = {"pending_snapshot": True, "synced": self.old, "failed": self.never_tripped}
        return wanted.get(self.status, False) and not self.tripped

    def reset(self, *, forget: bool) -> Self:
        """As a retry leaves it or, if its deliveries are to be forgotten, a resync."""
        return replace(
            self,
            status="pending_snapshot",
            retry_count=0,
            last_error=None,
            deliveries=0 if forget else self.deliveries,
            version="new",
        )

    def is_like(self, other: Row, **changes: Any) -> bool:
        """Whether all is as in the other, but for these changes and whether it was written."""
        return replace(self, version="") == replace(other, version="", **changes)


@dataclass(frozen=True)
class FoundJob:
    """All that there is of the job of a link."""

    fields: Mapping[str, bytes] = field(default_factory=dict)
    expires: bool = False
    places: int = 0
    """In the queue's list."""
    taken: int = 0
    """In RQ's intermediate list."""
    registries: frozenset[str] = frozenset()
    executions: frozenset[str] = frozenset()
    beats: bool = False
    """Whether the heartbeat of an execution has not expired."""
    other_keys: int = 0
    locked: bool = False
    """Whether a worker holds the link's lock."""
    rescan: bool | None = None
    """Of a job that docora-ops is to have made just now, the flag that it was made with."""

    @property
    def status(self) -> str:
        """What the job says of itself; empty if it is gone."""
        return self.fields.get("status", b"").decode()

    @property
    def state(self) -> JobState:
        """What the contract calls it."""
        if self.locked or self.beats:
            return JobState.RUNNING
        if self.status in WAITING:
            return JobState.WAITING
        if not self.fields:
            return JobState.NONE
        return JobState.FINISHED if self.status == "finished" else JobState.STALE

    @property
    def is_misplaced(self) -> bool:
        """Whether it waits by its status, and RQ would never take it."""
        # RQ takes what stands in the list or among the scheduled jobs, whatever its status says.
        is_in_place = self.places or self.taken or {self.status, "scheduled"} & self.registries
        # Docora has no rate-limited jobs: they are taken at their word.
        return self.state is JobState.WAITING and self.status != "rate_limited" and not is_in_place

    def is_fresh(self, rescan: bool | None, link: TestLink) -> bool:
        """Whether this is a job that docora-ops has just made for the link, and nothing else."""
        if replace(self, fields={}, locked=False, places=1) != FoundJob(places=1):
            return False
        if self.status != "queued" or any(map(self.fields.get, ("started_at", "ended_at", "meta"))):
            return False
        call = cast("tuple[str, object, object, dict[str, Any]]", _call(self.fields["data"]))
        arguments = call[3]
        ids = (arguments["app_id"], arguments["repository_id"])
        return ids == link.ids and arguments["is_rescan"] == rescan


@dataclass
class Situation:
    """Rows and jobs by job id, and the queue's list from its head."""

    links: Mapping[str, TestLink]
    rows: dict[str, Row]
    jobs: dict[str, FoundJob]
    waiting: list[str]

    @classmethod
    def of(cls, docora: Docora, links: Iterable[TestLink]) -> Self:
        """Look at both stores."""
        by_id = {link.job_id: link for link in links}
        rows = {}
        for row in docora.connection.execute(_ROWS).fetchall():
            link = TestLink(row.pop("app_id"), row.pop("repository_id"))
            rows[link.job_id] = Row(**row)
        locked = docora.connection.execute(_LOCKED, [list(by_id)]).fetchall()
        waiting = docora.waiting()
        jobs = _found_jobs(docora, list(by_id), waiting, {row["id"] for row in locked})
        return cls(by_id, rows, jobs, waiting)

    @property
    def lost(self) -> set[str]:
        """Links that are pending, yet have no live job; a job whose status lies counts as live."""
        return {
            job_id
            for job_id in self.without_job
            if self.rows[job_id].status != "scanning" and not self.jobs[job_id].is_misplaced
        }

    @property
    def without_job(self) -> list[str]:
        """Links that a job should be live for, and is not."""
        return [
            job_id
            for job_id in sorted(self.rows)
            if self.rows[job_id].status in UNFINISHED
            and (self.jobs[job_id].state not in LIVE or self.jobs[job_id].is_misplaced)
        ]

    def copy(self) -> Situation:
        """To be changed."""
        return Situation(self.links, dict(self.rows), dict(self.jobs), list(self.waiting))

    def queue(
        self, job_id: str, *, rescan: bool, reset: bool, forget: bool = False, front: bool = False
    ) -> Outcome:
        """Change this as docora-ops has to, unless the job is running; returns the outcome."""
        job = self.jobs[job_id]
        state = job.state
        if state is JobState.RUNNING:
            return Outcome.ALREADY_RUNNING
        if reset:
            self.rows[job_id] = self.rows[job_id].reset(forget=forget)
        if state is JobState.WAITING:
            self.jobs[job_id] = replace(job, expires=False)
            return Outcome.ALREADY_QUEUED
        self.jobs[job_id] = FoundJob(places=job.places + 1, rescan=rescan)
        self.waiting.insert(0 if front else len(self.waiting), job_id)
        is_new = state in {JobState.NONE, JobState.FINISHED}
        return Outcome.QUEUED if is_new else Outcome.REPLACED_STALE

    def differences(self, actual: Situation) -> list[str]:
        """What is not as it should be, in words."""
        found = []
        for job_id, link in self.links.items():
            row, actual_row = self.rows.get(job_id), actual.rows.get(job_id)
            if not _is_row(row, actual_row):
                found.append(f"row of {job_id}: {row} expected, {actual_row} found")
            job, actual_traces = self.jobs[job_id], actual.jobs[job_id]
            if not _is_job(job, actual_traces, link):
                found.append(f"job {job_id}: {job} expected, {actual_traces} found")
        if self.waiting != actual.waiting:
            found.append(f"list: {self.waiting} expected, {actual.waiting} found")
        return found

    def half_way(self, before: Situation, actual: Situation) -> list[str]:
        """What is neither as it was before nor as it should be once all is done."""
        found = []
        for job_id, link in self.links.items():
            actual_row = actual.rows.get(job_id)
            changed = not _is_row(before.rows.get(job_id), actual_row)
            if changed and not _is_row(self.rows.get(job_id), actual_row):
                found.append(f"row of {job_id}: {actual_row}")
            done = _is_job(self.jobs[job_id], actual.jobs[job_id], link)
            if not done and (changed or before.jobs[job_id] != actual.jobs[job_id]):
                found.append(f"job {job_id}: {actual.jobs[job_id]}")
        return found


def _is_row(expected: Row | None, actual: Row | None) -> bool:
    if expected is not None and actual is not None and expected.version == "new":
        return actual.is_like(expected)
    return expected == actual


def _is_job(expected: FoundJob, actual: FoundJob, link: TestLink) -> bool:
    if expected.rescan is not None:
        return actual.is_fresh(expected.rescan, link) and actual.places == expected.places
    return expected == actual


def _call(data: bytes) -> object:
    return pickle.loads(zlib.decompress(data))


def _found_jobs(
    docora: Docora, job_ids: Sequence[str], waiting: Sequence[str], locked: set[str]
) -> dict[str, FoundJob]:
    registries = {registry.key_template.split(":")[1]: registry for registry in REGISTRIES}
    with docora.redis.pipeline(transaction=False) as pipeline:
        pipeline.lrange(INTERMEDIATE, 0, -1)
        pipeline.zrange(WIP, "-inf", now().timestamp(), byscore=True)
        for registry in registries.values():
            pipeline.zrange(registry(QUEUE, connection=docora.redis).key, 0, -1)
        for job_id in job_ids:
            key = Job.key_for(job_id)
            pipeline.hgetall(key)
            pipeline.ttl(key)
            pipeline.exists(
                f"{key}:dependencies",
                Result.get_key(job_id),  # type: ignore[no-untyped-call]
                f"{INTERMEDIATE}:first_seen:{job_id}",
            )
            pipeline.zrange(ExecutionRegistry(job_id, connection=docora.redis).key, 0, -1)
        taken, executions, *found = pipeline.execute()
    registered, found = found[: len(registries)], found[len(registries) :]
    taken_by_id = Counter(member.decode() for member in taken)
    places = Counter(waiting)
    job = {}
    for job_id, fields, ttl, others, own in zip(
        job_ids, found[::4], found[1::4], found[2::4], found[3::4], strict=True
    ):
        # RQ removes an entry of a job that is not among the job's own when its time is over.
        at_work = {
            member.decode() for member in executions if member.decode().partition(":")[0] == job_id
        }
        mine = {f"{job_id}:{member.decode()}" for member in own}
        beats = any(docora.redis.exists(f"rq:execution:{member}") for member in mine)
        job[job_id] = FoundJob(
            fields={name.decode(): value for name, value in fields.items()},
            expires=ttl >= 0,
            places=places[job_id],
            taken=taken_by_id[job_id],
            registries=frozenset(
                name
                for name, members in zip(registries, registered, strict=True)
                if job_id.encode() in members
            ),
            executions=frozenset(at_work | mine),
            beats=beats,
            other_keys=others,
            locked=job_id in locked,
        )
    return job
