"""What both stores hold of some links at one moment, and what the contract makes of them."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.results import Result
from rq.utils import now

from docora_ops.jobs import JobState
from docora_ops.links import Action, Outcome
from tests.support.docora import INTERMEDIATE, QUEUE, REGISTRIES, WIP, Docora
from tests.support.rows import TestLink

WAITING = frozenset({"queued", "scheduled", "deferred", "ready_to_enqueue", "rate_limited"})
LIVE = frozenset({JobState.RUNNING, JobState.WAITING})

_ROWS = """
SELECT l.app_id, l.repository_id, l.status, l.retry_count, l.last_error, l.xmin::text AS version,
    l.last_scanned_at IS NULL OR l.last_scanned_at < now() - interval '5 minutes' AS old
FROM app_repositories l
"""
_LOCKED = """
SELECT id FROM unnest(%s::text[]) AS id JOIN pg_locks ON locktype = 'advisory'
    AND (classid::bigint << 32 | objid::bigint) = hashtextextended(id, 0)
"""


Row = dict[str, Any]
"""A link in Postgres. `version` changes whenever the row is written."""


@dataclass(frozen=True)
class FoundJob:
    """All that there is of the job of a link."""

    fields: Mapping[str, bytes] = field(default_factory=dict)
    expires: bool = False
    places: int = 0  # in the queue's list
    taken: int = 0  # in RQ's intermediate list
    registries: frozenset[str] = frozenset()
    executions: frozenset[str] = frozenset()
    beats: bool = False  # the heartbeat of an execution has not expired
    other_keys: int = 0
    locked: bool = False  # a worker holds the link's lock
    rescan: bool | None = None  # how docora-ops is to have made the job just now

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
    def is_live(self) -> bool:
        """Whether it runs, or waits where RQ takes it."""
        return self.state in LIVE and not self.is_misplaced

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
        arguments: Any = pickle.loads(self.fields["data"])[3]
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
            rows[link.job_id] = row
        found = docora.connection.execute(_LOCKED, [list(by_id)]).fetchall()
        waiting, locked = docora.waiting(), {row["id"] for row in found}
        jobs = {job_id: _find_job(docora, job_id, waiting, locked) for job_id in by_id}
        return cls(by_id, rows, jobs, waiting)

    @property
    def without_job(self) -> list[str]:
        """Links that a job should be live for, and is not, whatever it says."""
        return [
            job_id
            for job_id, row in sorted(self.rows.items())
            if (row["status"] in {"pending_snapshot", "scanning"} and not self.jobs[job_id].is_live)
            or ((row["status"] != "synced" or row["old"]) and self.jobs[job_id].is_misplaced)
        ]

    @property
    def lost(self) -> set[str]:
        """Links that are pending, yet have no live job; a job whose status lies counts as live."""
        return {
            job_id
            for job_id in self.without_job
            if self.rows[job_id]["status"] != "scanning" and not self.jobs[job_id].is_misplaced
        }

    def copy(self) -> Situation:
        """To be changed."""
        return Situation(self.links, dict(self.rows), dict(self.jobs), list(self.waiting))

    def qualifies(self, action: Action, job_id: str) -> bool:
        """Whether the link is one that the action is about."""
        row = self.rows.get(job_id)
        if row is None or action is Action.RESYNC:
            return row is not None
        if action is Action.RETRY:
            return bool(row["status"] == "failed")
        return row["status"] != "scanning" and (row["status"] != "synced" or bool(row["old"]))

    def predict(
        self, action: Action, job_ids: Sequence[str], locked: str | None, *, front: bool = False
    ) -> Counter[Outcome]:
        """Make the action on these links here. `locked`: the link whose row another session holds.

        An action on one link raises an error where a bulk operation counts a link as skipped or
        not queued.
        """
        outcomes: Counter[Outcome] = Counter()
        is_resync = action is Action.RESYNC
        running = Outcome.NOT_QUEUED if is_resync else Outcome.ALREADY_RUNNING
        in_turn = list(reversed(job_ids) if front else job_ids)
        # Jobs that wait are compared with the queue once all other links are done.
        in_turn.sort(key=lambda job_id: self.jobs[job_id].state is JobState.WAITING)
        for job_id in in_turn:
            job = self.jobs[job_id]
            if job_id == locked:
                outcomes[running if job.state is JobState.RUNNING else Outcome.NOT_QUEUED] += 1
            elif not self.qualifies(action, job_id):
                outcomes[Outcome.SKIPPED] += 1
            elif job.state is JobState.RUNNING:
                outcomes[running] += 1
            else:
                outcomes[self._queue(action, job_id, front=front)] += 1
        return outcomes

    def _queue(self, action: Action, job_id: str, *, front: bool) -> Outcome:
        row, job = self.rows[job_id], self.jobs[job_id]
        if action is not Action.SCHEDULE:
            self.rows[job_id] = row | {
                "status": "pending_snapshot",
                "retry_count": 0,
                "last_error": None,
                "version": "new",
            }
        if job.state is JobState.WAITING and not job.is_misplaced:
            fields = dict(job.fields)
            if action is not Action.SCHEDULE and "retries_left" in fields:
                fields["retries_left"] = b"4"  # as the link's count of failures is back at 0
            self.jobs[job_id] = replace(job, expires=False, fields=fields)
            return Outcome.ALREADY_QUEUED
        self.jobs[job_id] = FoundJob(places=job.places + 1, rescan=action.is_rescan(row["status"]))
        self.waiting.insert(0 if front else len(self.waiting), job_id)
        is_new = job.state in {JobState.NONE, JobState.FINISHED}
        return Outcome.QUEUED if is_new else Outcome.REPLACED_STALE

    def differences(self, actual: Situation) -> list[str]:
        """What is not as it should be, in words."""
        found = []
        for job_id, link in self.links.items():
            row, actual_row = self.rows.get(job_id), actual.rows.get(job_id)
            is_right = row == actual_row
            if row and actual_row and row["version"] == "new":
                is_right = actual_row | {"version": "new"} == row
            if not is_right:
                found.append(f"row of {job_id}: {row} expected, {actual_row} found")
            job, actual_job = self.jobs[job_id], actual.jobs[job_id]
            is_right = job == actual_job
            if job.rescan is not None:
                is_right = actual_job.is_fresh(job.rescan, link)
                is_right &= actual_job.places == job.places
            if not is_right:
                found.append(f"job {job_id}: {job} expected, {actual_job} found")
        if self.waiting != actual.waiting:
            found.append(f"list: {self.waiting} expected, {actual.waiting} found")
        return found


def _find_job(docora: Docora, job_id: str, waiting: Sequence[str], locked: set[str]) -> FoundJob:
    redis, key = docora.redis, Job.key_for(job_id)
    registries = {
        registry.key_template.split(":")[1]: registry(QUEUE, connection=redis).key
        for registry in REGISTRIES
    }
    found: list[Any]
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.lrange(INTERMEDIATE, 0, -1)
        pipeline.zrange(WIP, "-inf", now().timestamp(), byscore=True)
        pipeline.hgetall(key)
        pipeline.ttl(key)
        pipeline.exists(
            f"{key}:dependencies",
            Result.get_key(job_id),  # type: ignore[no-untyped-call]
            f"{INTERMEDIATE}:first_seen:{job_id}",
        )
        pipeline.zrange(ExecutionRegistry(job_id, connection=redis).key, 0, -1)
        for registry in registries.values():
            pipeline.zscore(registry, job_id)
        found = pipeline.execute()
    taken, executions, fields, ttl, others, own, *scores = found
    # RQ removes an entry of a job that is not among the job's own when its time is over.
    at_work = {each.decode() for each in executions if each.decode().split(":")[0] == job_id}
    mine = {f"{job_id}:{member.decode()}" for member in own}
    return FoundJob(
        fields={name.decode(): value for name, value in fields.items()},
        expires=ttl >= 0,
        places=waiting.count(job_id),
        taken=taken.count(job_id.encode()),
        registries=frozenset(
            name for name, score in zip(registries, scores, strict=True) if score is not None
        ),
        executions=frozenset(at_work | mine),
        beats=any(redis.exists(f"rq:execution:{member}") for member in mine),
        other_keys=others,
        locked=job_id in locked,
    )
