"""Finding what is out of step between database and queue."""

from __future__ import annotations

import re
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from docora_ops.actions.link_change import SECOND_LOOK_DELAY
from docora_ops.database import Database
from docora_ops.database.link_rows import JobLink, held_job_ids, links_of_jobs, shared_job_ids
from docora_ops.database.unfinished import Unfinished, names_of, unfinished_links
from docora_ops.drift import EXAMPLES_SHOWN, DriftKind, DriftReport, Finding
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, LinkStatus
from docora_ops.queue import Answer, LinkQueue, WaitingList
from docora_ops.queue.link_queue import is_valid_job_id
from docora_ops.queue.sweep import TO_BE_RUN, TO_RUN_OR_FAILED, Entry, EntryState, Place
from docora_ops.queue.waiting_list import NOT_IN_LIST, TWICE_IN_LIST

_LINKS_AT_ONCE = 5000
_JOBS_AT_ONCE = 500
_COUNTED_AT_ONCE = 20_000
_DOCORAS_JOB_ID = re.compile(r"app_[0-9a-f]{24}-repo_[0-9a-f]{24}")
_KINDS = {
    LinkStatus.PENDING_SNAPSHOT.value: DriftKind.LOST,
    LinkStatus.SCANNING.value: DriftKind.STUCK,
}
_OF_ENTRIES = tuple(kind for kind in DriftKind if kind not in _KINDS.values())


@dataclass(frozen=True, slots=True)
class Suspect:
    """Something that looks wrong. `mark` changes when it is wrong in another way."""

    finding: Finding
    mark: str = ""
    link_id: str = ""


def find_drift(
    database: Database,
    queue: LinkQueue,
    *,
    grace_seconds: float,
    before_second_look: Callable[[int], object] = lambda _: None,
) -> DriftReport:
    """What is wrong everywhere; writes nothing.

    Where the first look finds something, looks again `grace_seconds` later, holding no lock and no
    transaction, and counts only what was wrong in the same way both times. `before_second_look` is
    told how many things that may be. Raises PostgresError, RedisError.
    """
    counts: Counter[DriftKind] = Counter()
    examples: dict[DriftKind, list[Finding]] = {}
    for suspect in confirmed(
        database,
        queue,
        grace_seconds=grace_seconds,
        before_second_look=before_second_look,
    ):
        kind = suspect.finding.kind
        counts[kind] += 1
        if counts[kind] <= EXAMPLES_SHOWN:
            examples.setdefault(kind, []).append(suspect.finding)
    return DriftReport(
        counts={kind: counts[kind] for kind in DriftKind},
        examples={kind: named(database, findings) for kind, findings in examples.items()},
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
    """The same, or of one app or link, one by one, without names; each once.

    A single link is waited for less long.
    """
    first = _Suspects(_Look(database, queue, app_id, ref).suspects())
    if first.drifted:
        before_second_look(first.drifted)
        time.sleep(min(grace_seconds, SECOND_LOOK_DELAY) if ref else grace_seconds)
    if first:
        for suspect in _Look(database, queue, app_id, ref, first).suspects():
            if first.confirms(suspect):
                yield suspect


def named(database: Database, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with the names of their links. Raises PostgresError."""
    pairs = {
        (finding.app_id, finding.repository_id)
        for finding in findings
        if finding.app_id is not None and finding.repository_id is not None
    }
    names = names_of(database, sorted(pairs))
    return [
        replace(finding, app_name=found[0], repository=found[1])
        if (found := names.get((finding.app_id or "", finding.repository_id or "")))
        else finding
        for finding in findings
    ]


class _Suspects:
    """What a first look has found, in seventeen bytes each."""

    def __init__(self, suspects: Iterable[Suspect]) -> None:
        ids, drift, told = array("q"), array("q"), array("q")
        for suspect in suspects:
            finding = suspect.finding
            ids.append(hash((finding.kind, finding.job_id)))
            (drift if finding.kind.is_drift else told).append(_key(suspect))
        self.drifted = len(_each_once(drift))
        self._ids, self._exact = _each_once(ids), _each_once(drift + told)
        self._confirmed = bytearray(len(self._exact))

    def __len__(self) -> int:
        return len(self._exact)

    def may_hold(self, kind: DriftKind, job_id: str) -> bool:
        """Whether this was found, whatever its mark."""
        return _place(self._ids, hash((kind, job_id))) is not None

    def confirms(self, suspect: Suspect) -> bool:
        """Whether exactly this was found, and is asked for the first time."""
        place = _place(self._exact, _key(suspect))
        if place is None or self._confirmed[place]:
            return False
        self._confirmed[place] = 1
        return True


def _key(suspect: Suspect) -> int:
    return hash((suspect.finding.kind, suspect.finding.job_id, suspect.link_id, suspect.mark))


def _each_once(keys: array[int]) -> array[int]:
    return array("q", (key for key, _ in groupby(sorted(keys))))


def _place(keys: array[int], key: int) -> int | None:
    place = bisect_left(keys, key)
    return place if place < len(keys) and keys[place] == key else None


@dataclass
class _Look:
    """One look at everything, or only at what an earlier one has found."""

    database: Database
    queue: LinkQueue
    app_id: str | None
    ref: LinkRef | None
    only: _Suspects | None = None

    def __post_init__(self) -> None:
        self._not_waiting: set[int] = set()

    @cached_property
    def waiting(self) -> WaitingList | None:
        """The queue's list; for a single link it need not be read."""
        return None if self.ref else self.queue.read_waiting()

    def suspects(self) -> Iterator[Suspect]:
        """All that looks wrong; an entry that stands in several places comes more than once."""
        for place in Place:
            for job_ids, exact in self._pages(place):
                if job_ids:
                    entries = self.queue.sweep.check(place, job_ids, exact=exact)
                    yield from self._not_held(list(self._entries(entries)))
        yield from self._links()

    # Links without a job

    def _links(self) -> Iterator[Suspect]:
        link_id = self.ref.id if self.ref else None
        for links in unfinished_links(
            self.database, _LINKS_AT_ONCE, app_id=self.app_id, link_id=link_id
        ):
            doubtful = [link for link in links if not self._waits(link)]
            for start in range(0, len(doubtful), _JOBS_AT_ONCE):
                yield from self._without_job(doubtful[start : start + _JOBS_AT_ONCE])

    def _waits(self, link: Unfinished) -> bool:
        """Whether its job was seen waiting in the list, which most are; or it is not looked for."""
        job_id = link.ref.job_id
        if self.only is not None:
            return not self.only.may_hold(_KINDS[link.status], job_id)
        if self.waiting is None or "-" in link.ref.app_id or "-" in link.ref.repository_id:
            return False
        # Where a million wait, one hash in a million fits by chance: it hides it from this look.
        return self.waiting.hint(job_id) != NOT_IN_LIST and hash(job_id) not in self._not_waiting

    def _without_job(self, links: Sequence[Unfinished]) -> Iterator[Suspect]:
        able = [link for link in links if is_valid_job_id(link.ref.job_id)]
        job_ids = [link.ref.job_id for link in able]
        held = held_job_ids(self.database, job_ids)
        shared = shared_job_ids(self.database, [link.ref for link in able])
        answers = self.queue.look(job_ids, waiting=self.waiting) if job_ids else []
        for link, answer in zip(able, answers, strict=True):
            job_id = link.ref.job_id
            if job_id in held:
                continue
            if answer.state in {JobState.NONE, JobState.DOUBTFUL}:
                yield _suspect(link, answer.detail)
            elif answer.state is JobState.UNREADABLE:
                yield _suspect(link, detail=f"its Redis key does not hold a job: {answer.detail}")
            elif job_id in shared and not self.queue.is_made_for(job_id, link.ref.app_id):
                yield _suspect(link, detail="the job of another link has its job id")
        for link in links:
            if not is_valid_job_id(link.ref.job_id):
                yield _suspect(link, detail="its ids can't form a job id")

    # Entries of the queue

    def _pages(self, place: Place) -> Iterator[tuple[list[str], bool]]:
        """The ids that stand there, and whether they have to be looked for and counted."""
        if self.ref:
            yield [self.ref.job_id], True
            return
        twice: set[str] = set()
        counted: set[int] = set()
        for page in self.queue.sweep.pages(place):
            job_ids = list(filter(self._wanted, page))
            if place is Place.LIST and self.waiting is not None:
                # To count these takes a walk over the whole list: better one for many.
                hint = self.waiting.hint
                doubled = {job_id for job_id in job_ids if hint(job_id) == TWICE_IN_LIST}
                job_ids = [job_id for job_id in job_ids if job_id not in doubled]
                twice |= {job_id for job_id in doubled if hash(job_id) not in counted}
            yield job_ids, False
            if len(twice) >= _COUNTED_AT_ONCE:
                counted.update(map(hash, twice))
                yield list(twice), True
                twice.clear()
        yield list(twice), True

    def _wanted(self, job_id: str) -> bool:
        if self.app_id is not None and not job_id.startswith(f"{self.app_id}-"):
            return False
        if self.only is not None and not any(
            self.only.may_hold(kind, job_id) for kind in _OF_ENTRIES
        ):
            return False
        return is_valid_job_id(job_id)

    def _entries(self, entries: Sequence[Entry]) -> Iterator[Suspect]:
        self._not_waiting.update(
            hash(entry.job_id)
            for entry in entries
            if entry.place is Place.LIST and entry.state in {EntryState.GONE, EntryState.ELSEWHERE}
        )
        asked = [entry for entry in entries if _is_worth_asking(entry)]
        links: dict[str, list[JobLink]] = {}
        for link in links_of_jobs(self.database, {entry.job_id for entry in asked}):
            links.setdefault(link.job_id, []).append(link)
        orphans = self._orphans([entry for entry in asked if entry.job_id not in links])
        live = self._live([entry for entry in asked if entry.state is EntryState.CONTRADICTS])
        for entry in asked:
            of_entry = links.get(entry.job_id, [])
            kind = _kind_of(entry, of_entry, is_live=entry.job_id in live)
            if entry.job_id in orphans:
                kind = DriftKind.ORPHAN
            if kind is not None:
                ids = orphans.get(entry.job_id, (None, None))
                own = [link for link in of_entry if self.app_id in {None, link.app_id}]
                if own:
                    ids = (own[0].app_id, own[0].repository_id)
                elif of_entry or (self.app_id and ids[0] not in {None, self.app_id}):
                    continue  # of another app, whose id goes on with a dash
                yield Suspect(
                    Finding(
                        kind,
                        entry.job_id,
                        app_id=ids[0],
                        repository_id=ids[1],
                        detail=_describe(entry),
                    )
                )

    def _not_held(self, suspects: Sequence[Suspect]) -> Iterator[Suspect]:
        """Without the drift of links whose lock a worker holds, which a repair leaves alone."""
        drifted = [each.finding.job_id for each in suspects if each.finding.kind.is_drift]
        held = held_job_ids(self.database, drifted) if drifted else set()
        for suspect in suspects:
            if not suspect.finding.kind.is_drift or suspect.finding.job_id not in held:
                yield suspect

    def _orphans(self, entries: Sequence[Entry]) -> dict[str, tuple[str, str]]:
        """Jobs that were made for a link, and that no worker has, with the ids of the link.

        Finished and cancelled jobs of links that are gone are history, and expire.
        """
        job_ids = [
            entry.job_id
            for entry in entries
            if entry.place in TO_RUN_OR_FAILED and entry.state is not EntryState.GONE
        ]
        made_for = self.queue.sweep.made_for(job_ids) if job_ids else {}
        if not made_for:
            return {}
        taken = self._just_taken([entry for entry in entries if entry.job_id in made_for])
        idle = self._idle(list(made_for)) - taken
        return {job_id: ids for job_id, ids in made_for.items() if job_id in idle}

    def _just_taken(self, entries: Sequence[Entry]) -> set[str]:
        """Those that a worker may have in its hand; the queue's list still has the others."""
        taken = [entry.job_id for entry in entries if entry.place is not Place.LIST]
        if not taken:
            return set()
        found = self.queue.sweep.check(Place.INTERMEDIATE, taken, exact=False)
        return {entry.job_id for entry in found if entry.state is not EntryState.ABSENT}

    def _idle(self, job_ids: Sequence[str]) -> set[str]:
        """Those that neither run nor may do so."""
        states = {JobState.NONE, JobState.WAITING}
        return {answer.job_id for answer in self._look(job_ids) if answer.state in states}

    def _live(self, entries: Sequence[Entry]) -> set[str]:
        """Those that wait."""
        answers = self._look([entry.job_id for entry in entries])
        return {answer.job_id for answer in answers if answer.state is JobState.WAITING}

    def _look(self, job_ids: Sequence[str]) -> Iterator[Answer]:
        for start in range(0, len(job_ids), _JOBS_AT_ONCE):
            batch = job_ids[start : start + _JOBS_AT_ONCE]
            yield from self.queue.look(batch, waiting=self.waiting)


def _suspect(link: Unfinished, mark: str = "", detail: str = "") -> Suspect:
    finding = Finding(
        _KINDS[link.status],
        link.ref.job_id,
        app_id=link.ref.app_id,
        repository_id=link.ref.repository_id,
        detail=detail,
    )
    return Suspect(finding, mark, link.ref.id)


def _is_worth_asking(entry: Entry) -> bool:
    """Whether it matters what link the entry belongs to."""
    match entry.state:
        case EntryState.ABSENT | EntryState.ELSEWHERE | EntryState.UNREADABLE:
            return False
        case EntryState.RUNNING:
            return entry.place is Place.WIP
        case EntryState.OK:
            return entry.place in TO_RUN_OR_FAILED
    return True


def _kind_of(entry: Entry, links: Sequence[JobLink], *, is_live: bool) -> DriftKind | None:
    """What is wrong with an entry that is not of an orphan, if anything is."""
    # Without a live job the link itself is lost or stuck, and what is left goes when it is mended.
    unfinished = any(link.status in _KINDS for link in links)
    match entry.state:
        case EntryState.TWICE | EntryState.SCHEDULED if links:
            return DriftKind.DUPLICATE
        case EntryState.GONE:
            ours = bool(links) or _DOCORAS_JOB_ID.fullmatch(entry.job_id) is not None
            return DriftKind.STALE_ENTRY if ours and not unfinished else None
        case EntryState.CONTRADICTS if links and (is_live or not unfinished):
            return DriftKind.STALE_ENTRY
        case EntryState.OK | EntryState.RUNNING if entry.place in TO_BE_RUN | {Place.WIP}:
            failed = [link.status for link in links] == [LinkStatus.FAILED]
            return DriftKind.FAILED_LIVE if failed else None
    return None


def _describe(entry: Entry) -> str:
    places = {Place.LIST: "the queue's list", Place.INTERMEDIATE: "the intermediate list"}
    where = places.get(entry.place, f"the {entry.place} registry")
    match entry.state:
        case EntryState.GONE:
            return f"in {where}, yet its job is gone"
        case EntryState.CONTRADICTS:
            return f"in {where}, yet its job is {entry.status}"
        case EntryState.TWICE:
            return f"more than once in {where}"
        case EntryState.SCHEDULED:
            return f"in {where} and in the scheduled registry"
    return f"in {where}"
