"""Finds drift between database and queue."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from sys import intern

from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database.drift_rows import link_statuses, unfinished_links
from docora_ops.database.link_rows import held_job_ids, names_of
from docora_ops.database.results import read_unsynced
from docora_ops.drift import EXAMPLES_SHOWN, Drift, DriftKind, DriftReport
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, LinkStatus, ids_of_job
from docora_ops.queue import LinkQueue
from docora_ops.queue.sweep import TO_RUN_OR_FAILED, InspectedJob, Place, Problem, QueueSweep
from docora_ops.settings import SECOND_LOOK_DELAY

_AT_ONCE = 5000
_DOCORA_JOB_ID = re.compile(r"app_[0-9a-f]{24}-repo_[0-9a-f]{24}")
_KINDS_OF_LINKS = {
    LinkStatus.PENDING_SNAPSHOT.value: DriftKind.LOST,
    LinkStatus.SCANNING.value: DriftKind.STUCK,
}
_LIVE = {JobState.WAITING, JobState.RUNNING}
_STALE = {Problem.GONE, Problem.CONTRADICTS}
_WHERE = {place: f"the {place} registry" for place in Place} | {
    Place.LIST: "the queue's list",
    Place.INTERMEDIATE: "the intermediate list",
}


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
    """Counts all confirmed drift, with some examples; writes nothing."""
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
    that the first look has found.
    """
    suspects = deque(_Look(database, queue, app_id, ref).find())
    if not suspects:
        return
    drifted = sum(suspect.drift.kind.is_drift for suspect in suspects)
    if drifted:
        before_second_look(drifted)
        time.sleep(min(grace_seconds, SECOND_LOOK_DELAY) if ref else grace_seconds)
    yield from _Look(database, queue, app_id, ref).find_again(suspects)


def named(database: Database, drifts: Sequence[Drift]) -> list[Drift]:
    """Adds the names of apps and repositories."""
    return [
        replace(drift, app_name=app_name, repository_name=repository_name)
        for drift, (app_name, repository_name) in zip(
            drifts, names_of(database, drifts), strict=True
        )
    ]


class _Look:
    """One look at the jobs and links of everything, of one app, or at one link."""

    def __init__(
        self, database: Database, queue: LinkQueue, app_id: str | None, ref: LinkRef | None
    ) -> None:
        self._database = database
        self._queue = queue
        self._app_id = app_id
        self._ref = ref
        # The queue's list need not be read for a single link.
        self._waiting = None if ref else queue.read_waiting()
        self._is_live: dict[str, bool] = {}
        """By the job ids that have been inspected."""

    def find(self) -> Iterator[Suspect]:
        """Yields all drift, each once."""
        if sweep := self._queue.sweep:
            for job_ids in self._jobs(sweep):
                yield from self._check_jobs(sweep, job_ids)
        link_id = self._ref.id if self._ref else None
        for links in unfinished_links(
            self._database, _AT_ONCE, app_id=self._app_id, link_id=link_id
        ):
            yield from self._check_links(
                link for link in links if not self._is_live.get(link[0].job_id)
            )

    def find_again(self, suspects: deque[Suspect]) -> Iterator[Suspect]:
        """Removes the suspects of an earlier look, and yields the ones that are found again."""
        while suspects:
            some = [suspects.popleft() for _ in range(min(len(suspects), _AT_ONCE))]
            job_ids = {each.drift.job_id: None for each in some if each.ref is None}
            ids = [each.ref.id for each in some if each.ref is not None]
            links = read_unsynced(self._database, ids) if ids else []
            jobs = self._check_jobs(sweep, list(job_ids)) if (sweep := self._queue.sweep) else ()
            now = (*jobs, *self._check_links(links))
            evidence = {(each.drift.kind, each.drift.job_id): each.enqueued_at for each in now}
            for suspect in some:
                key = suspect.drift.kind, suspect.drift.job_id
                if evidence.get(key) == suspect.enqueued_at:
                    yield suspect

    def _jobs(self, sweep: QueueSweep) -> Iterator[list[str]]:
        """Yields the ids of all jobs with entries, each once."""
        pages = (page for place in Place for page in sweep.pages(place))
        for page in [[self._ref.job_id]] if self._ref else pages:
            yield list(dict.fromkeys(filter(self._is_wanted, page)))

    def _is_wanted(self, job_id: str) -> bool:
        ids = ids_of_job(job_id)
        if ids is None or self._app_id not in {None, ids[0]}:
            return False
        return job_id not in self._is_live

    def _check_jobs(self, sweep: QueueSweep, job_ids: Sequence[str]) -> Iterator[Suspect]:
        """Yields the drift of jobs that have entries in the queue."""
        if not job_ids:
            return
        jobs = sweep.inspect(job_ids, self._waiting)
        self._is_live |= {job.job_id: job.state in _LIVE for job in jobs}
        statuses = link_statuses(self._database, job_ids)
        orphans = sweep.made_for_links(
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

    def _check_links(self, links: Iterable[tuple[LinkRef, str]]) -> Iterator[Suspect]:
        """Yields the links without a live job, given with their statuses."""
        statuses = {ref: status for ref, status in links if status in _KINDS_OF_LINKS}
        kinds = {ref: _KINDS_OF_LINKS[status] for ref, status in statuses.items()}
        for ref, answer in look_at_jobs(self._database, self._queue, list(kinds)):
            if self._queue.docora_picks_up(statuses[ref], answer):
                continue
            if answer.state.is_over:
                yield _suspect(kinds[ref], ref)
            elif answer.state is JobState.UNREADABLE:
                detail = f"its Redis key does not hold a job: {answer.reason}"
                yield _suspect(kinds[ref], ref, detail)
        for ref, kind in kinds.items():
            if not ref.has_valid_job_id:
                yield _suspect(kind, ref, "its ids can't form a job id")


def _suspect(kind: DriftKind, ref: LinkRef, detail: str = "") -> Suspect:
    return Suspect(Drift(kind, ref.app_id, ref.repository_id, detail=detail), ref)


def _may_be_orphan(job: InspectedJob) -> bool:
    """Tells whether the job is to be run or has failed, and no worker runs it or has just taken it.

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
        # A repair of a lost link removes its stale entries too. A stuck link may become failed.
        if stale and (is_waiting or link_status != LinkStatus.PENDING_SNAPSHOT):
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
