"""Finds drift between database and queue. Writes nothing."""

import time
from collections.abc import Collection, Container, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from sys import intern

from docora_ops.actions.docora import Docora
from docora_ops.actions.link_jobs import DOCORA_JOB_ID, look_at_jobs
from docora_ops.database import Database
from docora_ops.database.drift import pages_of_links_to_check
from docora_ops.database.link_rows import linked_jobs, names_of
from docora_ops.jobs import JobState
from docora_ops.links import LinkIds, LinkRef, LinkStatus, batches, ids_of_job
from docora_ops.queue import LinkQueue
from docora_ops.queue.rq_entries import (
    TO_RUN_OR_FAILED,
    Entries,
    JobFacts,
    Place,
    QueueSweep,
    Removal,
)


class DriftKind(StrEnum):
    """Kinds of drift between a link and its job."""

    # The link is `pending_snapshot` without a live job; or it is failed or due, and its job is
    # marked as waiting, but no worker would take it.
    LOST = "lost"
    STUCK = "stuck"  # the link is `scanning` without a live job
    ORPHAN = "orphan"  # the job waits or has failed, but its link is gone
    DUPLICATE = "duplicate"  # the job is in the queue's list twice, or in list and schedule
    STALE_ENTRY = "stale_entry"  # a list or registry names a job that is gone or elsewhere


@dataclass(frozen=True, slots=True)
class Drift(LinkIds):
    """One case of drift. Names are None if the app or the repository is gone."""

    job_id: str = field()
    kind: DriftKind
    app_id: str
    repository_id: str
    app_name: str | None = None
    repository_name: str | None = None
    detail: str = ""  # where the job is in the queue, or why the link can't be repaired


_AT_ONCE = 2000
_KINDS_OF_LINKS = {
    LinkStatus.PENDING_SNAPSHOT.value: DriftKind.LOST,
    LinkStatus.SCANNING.value: DriftKind.STUCK,
}


@dataclass(frozen=True, slots=True)
class Suspects:
    """The number of links and jobs that await a second look. Yielded every second."""

    count: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One case of drift, and what its repair needs.

    status: the status of a lost or stuck link; otherwise empty.
    disproved: if the link has a waiting job, the evidence that no worker would take the job;
        otherwise empty.
    removal: the job or entries to remove; None for a lost or stuck link.
    """

    drift: Drift
    status: str = ""
    disproved: str = ""
    removal: Removal | None = None

    @property
    def key(self) -> str:
        """Identifies the case among those of one job. Changes if the job is queued again."""
        return intern(f"{self.drift.kind} {self.disproved}")


def find_drift(
    docora: Docora,
    *,
    app_id: str | None = None,
    ref: LinkRef | None = None,
) -> Generator[Suspects, None, Iterator[Finding]]:
    """Looks for drift twice, `DOCORA_OPS_DRIFT_GRACE` seconds apart.

    Yields Suspects between the looks, with no lock held and no transaction open. Returns an
    iterator, which makes the second look, and yields the drift that both looks have found. What
    only one look has found is normal activity.

    Leaves out held apps, because their links need no job until the release. Both looks raise
    PostgresError, RedisError.

    app_id: look only at this app.
    ref: look only at this link.
    """
    first: dict[str, tuple[str, ...]] = {}
    same: dict[tuple[str, ...], tuple[str, ...]] = {}  # saves memory: most jobs share their keys
    for finding in _look(docora, app_id, ref, None):
        job_id = finding.drift.job_id
        keys = (*first.get(job_id, ()), finding.key)
        first[job_id] = same.setdefault(keys, keys)
    if not first:
        return iter(())
    suspects = sum(map(len, first.values()))
    yield from pause_between_looks(suspects, docora.settings.drift_grace)
    return _with_names(docora.database, _found_again(_look(docora, app_id, ref, first), first))


def _with_names(database: Database, findings: Iterator[Finding]) -> Iterator[Finding]:
    while batch := list(islice(findings, _AT_ONCE)):
        names = names_of(database, [finding.drift for finding in batch])
        for finding, (app, repository) in zip(batch, names, strict=True):
            drift = replace(finding.drift, app_name=app, repository_name=repository)
            yield replace(finding, drift=drift)


def _found_again(second: Iterable[Finding], first: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Yields the suspects of the second look that are in `first`, and removes them from `first`."""
    for finding in second:
        job_id = finding.drift.job_id
        keys = first.get(job_id, ())
        if finding.key in keys:
            # Saves memory, because there may be a million.
            first[job_id] = tuple(key for key in keys if key != finding.key)
            if not first[job_id]:
                del first[job_id]
            yield finding


def pause_between_looks(count: int, delay: float) -> Iterator[Suspects]:
    """Sleeps for `delay` seconds. Yields Suspects with this count every second."""
    yield Suspects(count)
    end = time.monotonic() + delay
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1))
        yield Suspects(count)


def _look(
    docora: Docora, app_id: str | None, ref: LinkRef | None, only: Container[str] | None
) -> Iterator[Finding]:
    """Yields the suspects of one look at all links, one app or one link.

    only: consider only these jobs and their links.
    """
    database, queue = docora.database, docora.queue
    holds = docora.read_holds()
    sweep, entries = queue.sweep, None
    if sweep:
        entries = sweep.read({ref.job_id} if ref else only)
        wanted = []
        for job_id in entries.job_ids:
            ids = ids_of_job(job_id)
            if ids and app_id in {None, ids[0]} and ids[0] not in holds:
                wanted.append(job_id)
        for job_ids in batches(wanted, _AT_ONCE):
            yield from _check_jobs(database, queue, sweep, entries, job_ids)
    pages = pages_of_links_to_check(
        database,
        app_id=app_id,
        link_id=ref.id if ref else None,
        # Failed and due links count as lost only if their job is misplaced, and only with RQ.
        rescan_interval_ms=docora.settings.rescan_interval_ms if sweep else None,
        size=_AT_ONCE,
    )
    for page in pages:
        links = {
            link: status
            for link, status in page.items()
            if link.app_id not in holds and (only is None or link.job_id in only)
        }
        yield from _check_links(database, queue, entries, links)


def _check_jobs(
    database: Database,
    queue: LinkQueue,
    sweep: QueueSweep,
    entries: Entries,
    job_ids: Sequence[str],
) -> Iterator[Finding]:
    facts = sweep.read_facts(job_ids)
    links = linked_jobs(database, job_ids)
    by_job: dict[str, list[Finding]] = {}
    for job_id in job_ids:
        has_link, places = job_id in links, entries.places_of(job_id)
        if not has_link and facts[job_id].status and _is_orphan(job_id, places):
            place = next(place for place in places if place in TO_RUN_OR_FAILED)
            removal = entries.orphan(job_id, facts[job_id])
            judged = [_of_job(DriftKind.ORPHAN, f"in {place.words}", removal)]
        else:
            judged = list(_judge(job_id, facts[job_id], entries, has_link=has_link))
        if judged:
            by_job[job_id] = judged
    # Running jobs are left alone, including jobs whose lock a worker holds.
    drifts = [findings[0].drift for findings in by_job.values()]
    for drift, answer in look_at_jobs(database, queue, drifts):
        if answer.state not in {JobState.RUNNING, JobState.UNREADABLE}:
            yield from by_job[drift.job_id]


def _is_orphan(job_id: str, places: Collection[Place]) -> bool:
    """Tells whether the job of a deleted link is an orphan: it waits or has failed.

    Returns False for a job that a worker has just taken, for finished and cancelled jobs, which
    expire, and for a job whose id is not one of Docora's.
    """
    is_taken = Place.INTERMEDIATE in places or TO_RUN_OR_FAILED.isdisjoint(places)
    return not is_taken and DOCORA_JOB_ID.fullmatch(job_id) is not None


def _judge(job_id: str, facts: JobFacts, entries: Entries, *, has_link: bool) -> Iterator[Finding]:
    """Yields the stale entries and the duplicates of a job that is not an orphan."""
    stale, removal = entries.stale(job_id, facts)
    is_gone = not facts.status and DOCORA_JOB_ID.fullmatch(job_id)
    if stale and (has_link or is_gone):
        detail = f"in {stale[0].words}, yet its job is {facts.status or 'gone'}"
        yield _of_job(DriftKind.STALE_ENTRY, detail, removal)
    duplicate = entries.duplicate(job_id, facts)
    if duplicate and has_link:
        more = f"in {Place.SCHEDULED.words}" if duplicate.entries else "once more"
        yield _of_job(DriftKind.DUPLICATE, f"in {Place.LIST.words}, and {more}", duplicate)


def _of_job(kind: DriftKind, detail: str, removal: Removal) -> Finding:
    # Interned, because a million jobs may share the same few texts.
    app_id, _, repository_id = map(intern, removal.job_id.partition("-"))
    drift = Drift(removal.job_id, kind, app_id, repository_id, detail=intern(detail))
    return Finding(drift, removal=removal)


def _check_links(
    database: Database, queue: LinkQueue, entries: Entries | None, statuses: Mapping[LinkRef, str]
) -> Iterator[Finding]:
    """Yields the links that lack a live job, and links whose waiting job no worker would take."""
    answers = dict(look_at_jobs(database, queue, list(statuses)))
    waiting = [ref.job_id for ref, answer in answers.items() if answer.state is JobState.WAITING]
    misplaced = queue.sweep.misplaced(waiting, entries) if queue.sweep and entries else {}
    for ref, status in statuses.items():
        answer, detail, disproved = answers.get(ref), "", misplaced.get(ref.job_id, "")
        kind = _KINDS_OF_LINKS.get(status)  # None for failed and due links, which need no job
        if not disproved:
            if kind is None or (answer and answer.state.is_live):
                continue
            if answer is None:
                detail = "its ids can't form a job id"
            elif queue.docora_picks_up(status, answer):
                continue
            else:
                detail = answer.error_message or ""
        ids = (ref.app_id, ref.repository_id)
        drift = Drift(ref.job_id, kind or DriftKind.LOST, *ids, detail=detail)
        yield Finding(drift, status, disproved)
