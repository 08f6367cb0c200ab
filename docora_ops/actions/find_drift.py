"""Finds drift between database and queue. Writes nothing."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import intern

from docora_ops.actions.look import DOCORA_JOB_ID, look_at_jobs
from docora_ops.database import Database
from docora_ops.database.link_rows import linked_jobs, names_of, unfinished_links
from docora_ops.drift import Drift, DriftKind
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, LinkStatus, batches, ids_of_job
from docora_ops.queue import LinkQueue
from docora_ops.queue.sweep import TO_RUN_OR_FAILED, Entries, JobFacts, Place, QueueSweep, Removal

_AT_ONCE = 5000
_KINDS_OF_LINKS = {
    LinkStatus.PENDING_SNAPSHOT.value: DriftKind.LOST,
    LinkStatus.SCANNING.value: DriftKind.STUCK,
}


@dataclass(frozen=True, slots=True)
class Suspects:
    """The number of mismatches that wait for a second look. Sent each second."""

    count: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One case of drift, and what its repair needs.

    ref: the link, if it is lost or stuck.
    disproved: the evidence against the status of its job.
    removal: the job or entries to remove, if it is no lost or stuck link.
    """

    drift: Drift
    ref: LinkRef | None = None
    disproved: str = ""
    removal: Removal | None = None

    @property
    def key(self) -> tuple[DriftKind, str, str]:
        """Identifies the case. Differs if the job has been queued again meanwhile."""
        return self.drift.kind, self.drift.job_id, self.disproved


def find_drift(
    database: Database,
    queue: LinkQueue,
    *,
    delay: float,
    app_id: str | None = None,
    ref: LinkRef | None = None,
) -> Iterator[Suspects | list[Finding]]:
    """Looks for drift twice. Yields Suspects between the looks, and finally the findings.

    What only one look finds is normal activity. Holds no lock and no transaction between the looks.
    Raises PostgresError, RedisError.

    delay: seconds between the two looks.
    app_id: look at this app only.
    ref: look at this link only.
    """
    first = {finding.key for finding in _look(database, queue, app_id, ref)}
    found: list[Finding] = []
    if first:
        yield from pause_between_looks(len(first), delay)
        found = [each for each in _look(database, queue, app_id, ref) if each.key in first]
    named = [
        names
        for some in batches(found, _AT_ONCE)
        for names in names_of(database, [each.drift for each in some])
    ]
    yield [
        # One string for all links of an app.
        replace(each, drift=replace(each.drift, app_name=app and intern(app), repository_name=name))
        for each, (app, name) in zip(found, named, strict=True)
    ]


def find_misplaced(
    queue: LinkQueue, links: Sequence[LinkRef], *, delay: float
) -> Iterator[Suspects | dict[str, str]]:
    """Looks twice for jobs whose status says that they wait, though RQ would never take them.

    Yields Suspects between the looks, and finally, by job id, the evidence against each status.
    Raises RedisError.

    delay: seconds between the two looks.
    """
    sweep = queue.sweep
    if sweep is None:
        return
    first = sweep.misplaced([link.job_id for link in links], sweep.read())
    if not first:
        return
    yield from pause_between_looks(len(first), delay)
    second = sweep.misplaced(list(first), sweep.read())
    yield {job_id: seen for job_id, seen in second.items() if first[job_id] == seen}


def pause_between_looks(count: int, delay: float) -> Iterator[Suspects]:
    """Yields Suspects, with this count, each second until the pause is over."""
    yield Suspects(count)
    end = time.monotonic() + delay
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1))
        yield Suspects(count)


def _look(
    database: Database, queue: LinkQueue, app_id: str | None, ref: LinkRef | None
) -> Iterator[Finding]:
    """Yields the drift that one look finds, of all links, one app or one link."""
    sweep, entries = queue.sweep, None
    if sweep:
        entries = sweep.read()
        wanted = []
        for job_id in entries.job_ids:
            ids = ids_of_job(job_id)
            if ids and app_id in {None, ids[0]} and (ref is None or job_id == ref.job_id):
                wanted.append(job_id)
        for job_ids in batches(wanted, _AT_ONCE):
            yield from _check_jobs(database, queue, sweep, entries, job_ids)
    unfinished = unfinished_links(database, app_id=app_id, link_id=ref.id if ref else None)
    for links in batches(unfinished, _AT_ONCE):
        yield from _check_links(database, queue, entries, dict(links))


def _check_jobs(
    database: Database,
    queue: LinkQueue,
    sweep: QueueSweep,
    entries: Entries,
    job_ids: Sequence[str],
) -> Iterator[Finding]:
    """Yields the drift of jobs that have entries in the queue."""
    facts = sweep.read_facts(job_ids)
    links = linked_jobs(database, job_ids)
    orphans = {
        job_id
        for job_id in job_ids
        if job_id not in links and facts[job_id].status and _is_orphan(entries, job_id)
    }
    found: dict[str, list[Finding]] = {}
    for job_id in job_ids:
        if job_id in orphans:
            places = entries.places_of(job_id)
            [place, *_] = [each for each in places if each in TO_RUN_OR_FAILED]
            removal = entries.orphan(job_id, facts[job_id])
            judged = [_of_job(DriftKind.ORPHAN, f"in {place.words}", removal)]
        else:
            judged = list(_judge(job_id, facts[job_id], entries, has_link=job_id in links))
        if judged:
            found[job_id] = judged
    # A running job is left alone, also one that a worker holds the lock of.
    drifts = [findings[0].drift for findings in found.values()]
    for drift, answer in look_at_jobs(database, queue, drifts):
        if answer.state not in {JobState.RUNNING, JobState.UNREADABLE}:
            yield from found[drift.job_id]


def _is_orphan(entries: Entries, job_id: str) -> bool:
    """Tells whether a link's job is to be run or has failed, and no worker has just taken it.

    Finished and cancelled jobs of deleted links are history; they expire.
    """
    places = entries.places_of(job_id)
    is_left = Place.INTERMEDIATE not in places and not TO_RUN_OR_FAILED.isdisjoint(places)
    return is_left and DOCORA_JOB_ID.fullmatch(job_id) is not None


def _judge(job_id: str, facts: JobFacts, entries: Entries, *, has_link: bool) -> Iterator[Finding]:
    """Yields the stale entries and the duplicates of a job that is no orphan."""
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
    app_id, _, repository_id = removal.job_id.partition("-")
    drift = Drift(removal.job_id, kind, intern(app_id), repository_id, detail=detail)
    return Finding(drift, removal=removal)


def _check_links(
    database: Database, queue: LinkQueue, entries: Entries | None, statuses: Mapping[LinkRef, str]
) -> Iterator[Finding]:
    """Yields the links without a live job."""
    job_ids = [ref.job_id for ref in statuses if ref.has_valid_job_id]
    misplaced = queue.sweep.misplaced(job_ids, entries) if queue.sweep and entries else {}
    answers = dict(look_at_jobs(database, queue, list(statuses)))
    for ref, status in statuses.items():
        answer, detail, disproved = answers.get(ref), "", misplaced.get(ref.job_id, "")
        if answer is None:
            detail = "its ids can't form a job id"
        elif queue.docora_picks_up(status, answer):
            continue
        elif answer.state is JobState.UNREADABLE:
            detail = f"its Redis key does not hold a job: {answer.reason}"
        elif answer.state is JobState.RUNNING or (answer.state.is_live and not disproved):
            continue
        kind = _KINDS_OF_LINKS[status]
        drift = Drift(ref.job_id, kind, ref.app_id, ref.repository_id, detail=detail)
        yield Finding(drift, ref, disproved if answer and answer.state.is_live else "")
