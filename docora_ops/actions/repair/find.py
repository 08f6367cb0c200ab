"""Finds drift between database and queue."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from sys import intern
from typing import TypeVar

from docora_ops.database import Database
from docora_ops.database.drift_rows import (
    UnfinishedLink,
    link_statuses,
    names_of,
    unfinished_links,
)
from docora_ops.database.link_rows import held_job_ids
from docora_ops.drift import EXAMPLES_SHOWN, Drift, DriftKind, DriftReport
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, LinkStatus, ids_of_job
from docora_ops.queue import LinkQueue
from docora_ops.queue.sweep import TO_RUN_OR_FAILED, InspectedJob, Place, Problem
from docora_ops.settings import SECOND_LOOK_DELAY

Item = TypeVar("Item")

_LINKS_AT_ONCE = 5000
_JOBS_AT_ONCE = 500
_DOCORA_JOB_ID = re.compile(r"app_[0-9a-f]{24}-repo_[0-9a-f]{24}")
_KINDS_OF_LINKS = {
    LinkStatus.PENDING_SNAPSHOT.value: DriftKind.LOST,
    LinkStatus.SCANNING.value: DriftKind.STUCK,
}
_KINDS_OF_JOBS = [kind for kind in DriftKind if kind not in _KINDS_OF_LINKS.values()]
_LIVE = {JobState.WAITING, JobState.RUNNING}
_STALE = {Problem.GONE, Problem.CONTRADICTS}
_WHERE = {place: f"the {place} registry" for place in Place} | {
    Place.LIST: "the queue's list",
    Place.INTERMEDIATE: "the intermediate list",
}

Found = dict[DriftKind, dict[str, str]]
"""By kind and job id the `enqueued_at` of the job if it was doubtful, otherwise empty."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """Drift as one look has found it; `ref` is set if the kind is lost or stuck."""

    drift: Drift
    ref: LinkRef | None = None
    enqueued_at: str = ""
    """Set if the job is doubtful. If it changes, somebody has queued the job meanwhile."""


def find_drift(
    database: Database,
    queue: LinkQueue,
    *,
    grace_seconds: float,
    before_second_look: Callable[[int], object] = lambda _: None,
) -> DriftReport:
    """Counts all confirmed drift, with some examples; writes nothing.

    Raises PostgresError, RedisError.
    """
    counts: Counter[DriftKind] = Counter()
    examples: dict[DriftKind, list[Drift]] = {}
    for suspect in confirmed(
        database, queue, grace_seconds=grace_seconds, before_second_look=before_second_look
    ):
        kind = suspect.drift.kind
        counts[kind] += 1
        if counts[kind] <= EXAMPLES_SHOWN:
            examples.setdefault(kind, []).append(suspect.drift)
    return DriftReport(
        counts={kind: counts[kind] for kind in DriftKind},
        examples={kind: named(database, drifts) for kind, drifts in examples.items()},
    )


def confirmed(
    database: Database,
    queue: LinkQueue,
    *,
    grace_seconds: float,
    app_id: str | None = None,
    ref: LinkRef | None = None,
    before_second_look: Callable[[int], object] = lambda _: None,
) -> Iterator[Suspect]:
    """Yields the drift that two looks find alike: of everything, one app, or one link.

    The second look comes `grace_seconds` after the first, or sooner for a single link. Meanwhile no
    lock is held and no transaction is open. `before_second_look` gets the number of disagreements
    that the first look has found. Raises PostgresError, RedisError.
    """
    found: Found = {kind: {} for kind in DriftKind}
    for suspect in _Look(database, queue, app_id, ref).suspects():
        found[suspect.drift.kind][suspect.drift.job_id] = suspect.enqueued_at
    if not any(found.values()):
        return
    drifted = sum(len(job_ids) for kind, job_ids in found.items() if kind.is_drift)
    if drifted:
        before_second_look(drifted)
        time.sleep(min(grace_seconds, SECOND_LOOK_DELAY) if ref else grace_seconds)
    for suspect in _Look(database, queue, app_id, ref, only=found).suspects():
        if found[suspect.drift.kind].get(suspect.drift.job_id) == suspect.enqueued_at:
            yield suspect


def named(database: Database, drifts: Sequence[Drift]) -> list[Drift]:
    """Adds the names of apps and repositories. Raises PostgresError."""
    names = names_of(database, {(drift.app_id, drift.repository_id) for drift in drifts})
    result = []
    for drift in drifts:
        app_name, repository_name = names[drift.app_id, drift.repository_id]
        result.append(replace(drift, app_name=app_name, repository_name=repository_name))
    return result


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yields the items in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Look:
    """One look at all jobs and links, or with `only` at the jobs that an earlier look found."""

    def __init__(
        self,
        database: Database,
        queue: LinkQueue,
        app_id: str | None,
        ref: LinkRef | None,
        only: Found | None = None,
    ) -> None:
        self._database = database
        self._queue = queue
        self._app_id = app_id
        self._ref = ref
        self._only = only
        # The queue's list need not be read for a single link.
        self._waiting = None if ref else queue.read_waiting()
        self._is_live: dict[str, bool] = {}
        """By the job ids that have been inspected."""

    def suspects(self) -> Iterator[Suspect]:
        """Yields all drift, each once."""
        for job_ids in self._jobs():
            yield from self._check_jobs(self._queue.sweep.inspect(job_ids, self._waiting))
        link_id = self._ref.id if self._ref else None
        for links in unfinished_links(
            self._database, _LINKS_AT_ONCE, app_id=self._app_id, link_id=link_id
        ):
            doubtful = [link for link in links if self._may_lack_job(link)]
            for batch in batches(doubtful, _JOBS_AT_ONCE):
                yield from self._check_links(batch)

    # Jobs that have entries in the queue

    def _jobs(self) -> Iterator[list[str]]:
        """Yields the ids of all jobs with entries, each once."""
        pages = (page for place in Place for page in self._queue.sweep.pages(place))
        for page in [[self._ref.job_id]] if self._ref else pages:
            yield list(dict.fromkeys(filter(self._is_wanted, page)))

    def _is_wanted(self, job_id: str) -> bool:
        ids = ids_of_job(job_id)
        if ids is None or self._app_id not in {None, ids[0]} or job_id in self._is_live:
            return False
        return self._only is None or any(job_id in self._only[kind] for kind in _KINDS_OF_JOBS)

    def _check_jobs(self, jobs: Sequence[InspectedJob]) -> Iterator[Suspect]:
        if not jobs:
            return
        self._is_live |= {job.job_id: job.state in _LIVE for job in jobs}
        statuses = link_statuses(self._database, [job.job_id for job in jobs])
        orphans = self._queue.sweep.made_for_links(
            [job.job_id for job in jobs if job.job_id not in statuses and _may_be_orphan(job)]
        )
        drifts = []
        for job in jobs:
            app_id, _, repository_id = job.job_id.partition("-")
            is_orphan = job.job_id in orphans
            for kind, detail in _judge(job, statuses.get(job.job_id), is_orphan=is_orphan):
                drifts.append(Drift(kind, intern(app_id), repository_id, detail=detail))
        # Repair leaves a job alone if a worker holds the link's lock.
        drifted = [drift.job_id for drift in drifts if drift.kind.is_drift]
        held = held_job_ids(self._database, drifted) if drifted else set()
        for drift in drifts:
            if not drift.kind.is_drift or drift.job_id not in held:
                yield Suspect(drift)

    # Links without a job

    def _may_lack_job(self, link: UnfinishedLink) -> bool:
        job_id = link.ref.job_id
        if self._only is not None:
            return job_id in self._only[_KINDS_OF_LINKS[link.status]]
        return not self._is_live.get(job_id, False)

    def _check_links(self, links: Sequence[UnfinishedLink]) -> Iterator[Suspect]:
        valid = [link for link in links if link.ref.has_valid_job_id]
        job_ids = [link.ref.job_id for link in valid]
        held = held_job_ids(self._database, job_ids)
        answers = self._queue.look(job_ids, waiting=self._waiting)
        for link, answer in zip(valid, answers, strict=True):
            if answer.job_id in held:
                continue
            if answer.state in {JobState.NONE, JobState.DOUBTFUL}:
                yield _suspect(link, enqueued_at=answer.evidence)
            elif answer.state is JobState.UNREADABLE:
                yield _suspect(link, f"its Redis key does not hold a job: {answer.reason}")
        for link in links:
            if not link.ref.has_valid_job_id:
                yield _suspect(link, "its ids can't form a job id")


def _suspect(link: UnfinishedLink, detail: str = "", *, enqueued_at: str = "") -> Suspect:
    ref = link.ref
    kind = _KINDS_OF_LINKS[link.status]
    return Suspect(Drift(kind, ref.app_id, ref.repository_id, detail=detail), ref, enqueued_at)


def _may_be_orphan(job: InspectedJob) -> bool:
    """Whether the job is to be run or has failed, and no worker runs it or has just taken it.

    Finished and cancelled jobs of deleted links are history; they expire.
    """
    return (
        job.state in {JobState.NONE, JobState.WAITING}
        and bool(job.status)
        and Place.INTERMEDIATE not in job.problems
        and not TO_RUN_OR_FAILED.isdisjoint(job.problems)
    )


def _judge(
    job: InspectedJob, link_status: str | None, *, is_orphan: bool
) -> Iterator[tuple[DriftKind, str]]:
    """Yields kind and detail of each disagreement between the job, its entries and its link."""
    places = [place for place in Place if place in job.problems]
    stale = [place for place in places if job.problems[place] in _STALE]
    if is_orphan:
        [place, *_] = [place for place in places if place in TO_RUN_OR_FAILED]
        yield DriftKind.ORPHAN, f"in {_WHERE[place]}"
    elif job.state is JobState.RUNNING:
        if link_status == LinkStatus.FAILED and Place.WIP in places:
            yield DriftKind.FAILED_LIVE, f"in {_WHERE[Place.WIP]}"
    elif link_status is None:
        if stale and not job.status and _DOCORA_JOB_ID.fullmatch(job.job_id):
            yield DriftKind.STALE_ENTRY, _describe_stale(job, stale[0])
    else:
        is_waiting = job.state is JobState.WAITING
        # A repair of a lost or stuck link removes its stale entries too.
        if stale and (is_waiting or link_status not in _KINDS_OF_LINKS):
            yield DriftKind.STALE_ENTRY, _describe_stale(job, stale[0])
        if job.problems.get(Place.LIST) is Problem.TWICE:
            yield DriftKind.DUPLICATE, f"more than once in {_WHERE[Place.LIST]}"
        elif job.status and {Place.LIST, Place.SCHEDULED} <= job.problems.keys():
            where = f"in {_WHERE[Place.LIST]} and in {_WHERE[Place.SCHEDULED]}"
            yield DriftKind.DUPLICATE, where
        elif is_waiting and places and link_status == LinkStatus.FAILED:
            yield DriftKind.FAILED_LIVE, f"in {_WHERE[places[0]]}"


def _describe_stale(job: InspectedJob, place: Place) -> str:
    return f"in {_WHERE[place]}, yet its job is {job.status or 'gone'}"
