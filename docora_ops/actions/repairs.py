"""Repairs drift between database and queue."""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from docora_ops.actions.change import Changed, Changer, LinkOutcome
from docora_ops.actions.docora import Docora, require_right_workers, warn_of_workers
from docora_ops.actions.drift import Drift, DriftKind, Finding, Suspects, find_drift
from docora_ops.actions.holds import held_apps, held_in_words
from docora_ops.actions.link_jobs import look_at_jobs
from docora_ops.actions.lookup import resolve_app, resolve_link
from docora_ops.actions.pair import require_pair
from docora_ops.database import Database
from docora_ops.database.claims import Claiming
from docora_ops.database.drift import lock_against_new_links, unfinished_links
from docora_ops.database.link_rows import linked_jobs, locked_job_ids, read_refs
from docora_ops.database.postgres_server import read_standby
from docora_ops.errors import (
    DocoraOpsError,
    PostgresError,
    RedisError,
    ServerError,
    ServersMismatchedError,
)
from docora_ops.jobs import JobState
from docora_ops.links import Action, LinkFilter, LinkRef, LinkStatus, Outcome, batches
from docora_ops.operations import Change, StoppedBy
from docora_ops.queue import LinkQueue
from docora_ops.queue.audit_stream import AuditEntries
from docora_ops.settings import SECOND_LOOK_DELAY


class RepairOutcome(StrEnum):
    """Outcomes of the repair of one case of drift, done or planned."""

    QUEUED = "queued"  # the link has a new job
    RESET = "reset"  # the link is pending: Docora's scheduler queues its job
    REMOVED = "removed"  # the job, or its superfluous entries, were removed
    LEFT_ALONE = "left_alone"  # the drift has ended, or the job is running
    NOT_REPAIRED = "not_repaired"


@dataclass(frozen=True, slots=True)
class Repaired:
    """One case of drift, and the outcome of its repair."""

    drift: Drift
    outcome: RepairOutcome
    error_message: str | None = None


@dataclass(frozen=True)
class AppDrift:
    """The drift of one kind in one app, and the outcomes of its repair."""

    app_id: str
    app_name: str | None  # None if the app is gone
    kind: DriftKind
    total: int
    counts: Mapping[RepairOutcome, int]


@dataclass(frozen=True)
class RepairResult:
    """The drift, and the outcomes of its repair: those so far or, in a dry run, those expected."""

    drifts: Sequence[Drift]
    repaired: Sequence[Repaired] = ()
    dry_run: bool = False

    @property
    def total(self) -> int:
        """Counts the cases of drift."""
        return len(self.drifts)

    @property
    def by_kind(self) -> Mapping[DriftKind, int]:
        """Counts the cases of drift by kind."""
        counts = Counter(drift.kind for drift in self.drifts)
        return {kind: counts[kind] for kind in DriftKind}

    @property
    def counts(self) -> Mapping[RepairOutcome, int]:
        """Counts the outcomes."""
        counts = Counter(item.outcome for item in self.repaired)
        return {outcome: counts[outcome] for outcome in RepairOutcome}

    @property
    def by_app(self) -> Sequence[AppDrift]:
        """Returns the drift by app and kind, most cases first."""
        totals = Counter((drift.app_id, drift.app_name, drift.kind) for drift in self.drifts)
        done: dict[tuple[str, DriftKind], Counter[RepairOutcome]] = {}
        for item in self.repaired:
            done.setdefault((item.drift.app_id, item.drift.kind), Counter())[item.outcome] += 1
        return [
            AppDrift(app_id, app_name, kind, count, done.get((app_id, kind), {}))
            for (app_id, app_name, kind), count in totals.most_common()
        ]

    @property
    def completed(self) -> int:
        """Counts the cases that have an outcome."""
        return len(self.repaired)


STUCK_ERROR = "the snapshot was cut off: its worker's heartbeat stopped"
"""Error of a link whose scan ended without a result."""
_JOBS_AT_ONCE = 500
"""Jobs per transaction. For each transaction, Redis reads the whole list; with 500,000 entries,
this takes as long as removing these jobs."""
_UNFINISHED = (LinkStatus.PENDING_SNAPSHOT, LinkStatus.SCANNING)
_AT_REST = (LinkStatus.FAILED, LinkStatus.SYNCED)
_OUTCOMES = {
    Outcome.QUEUED: RepairOutcome.QUEUED,
    Outcome.REPLACED_STALE: RepairOutcome.QUEUED,
    Outcome.RESET: RepairOutcome.RESET,
    Outcome.NOT_QUEUED: RepairOutcome.NOT_REPAIRED,
}


@dataclass(frozen=True)
class RepairData:
    """The result of `repair`: drift counted by kind and by outcome, and each case."""

    message: str
    dry_run: bool
    by_kind: Mapping[DriftKind, int]
    counts: Mapping[RepairOutcome, int]
    repaired: Sequence[Repaired]


def repair(
    docora: Docora,
    app: str | None = None,
    repository: str | None = None,
    *,
    by_prefix: bool = True,
    dry_run: bool = False,
    reason: str | None = None,
) -> Generator[Suspects | RepairResult]:
    """Finds and repairs the drift of all links, of one app, or of one link.

    Yields Suspects until the second look, a result before the first change, and a result after each
    batch. Closing the generator before the first change changes nothing; closing it later leaves
    the rest to another repair. Skips running jobs, and drift that has changed since it was found.

    app: id or name. With `repository`, an unambiguous prefix is always allowed.
    repository: id, `owner/name` or GitHub URL.
    by_prefix: without `repository`, allow an unambiguous prefix of the app's id or name.
    dry_run: only report what would happen; does not predict which stuck links would become
        `failed`.
    reason: for the audit entry.

    Raises NotFoundError,
    AmbiguousError, UnclearBackendError, WrongBackendError, ServersMismatchedError,
    ServerError.
    """
    database, queue = docora.database, docora.queue
    names: dict[str, str] = {}
    scope: dict[str, Any] = {}
    of = ""
    if app is not None and repository is not None:
        link = resolve_link(database, app, repository)
        names, of = link.names, f" of {link.payload.link_name}"
        scope = {"app_id": link.ref.app_id, "ref": link.ref}
    elif app is not None:
        found_app = resolve_app(database, app, by_prefix=by_prefix)
        names, of = asdict(found_app), f" of {found_app.app_name}"
        scope = {"app_id": found_app.app_id}
    docora.note(f"{docora.servers}: looking for drift{of}.")
    if held := held_apps(docora):
        docora.note(f"Left out: {held_in_words(held)}.")
    require_right_workers(docora, alone=True)
    warn_of_workers(docora)
    yield Suspects(0)
    if standby := read_standby(database):
        raise PostgresError(
            f"Postgres database {database.server} is {standby}: it says nothing about drift",
            hint="point DATABASE_URL at the primary; if this standby takes over, try again once it "
            "is promoted",
        )
    findings: list[Finding] = []
    looks = find_drift(docora, **scope)
    mismatch: DocoraOpsError | None = None
    if suspects := next(looks, None):
        try:
            require_pair(docora)
        except ServersMismatchedError as error:
            mismatch = error
        yield suspects
        findings += yield from looks
    if findings and mismatch:
        raise mismatch
    if dry_run:
        yield plan_repair(queue, findings)
        return
    yield RepairResult([finding.drift for finding in findings])
    if findings:
        change = docora.describe_change(
            "repair",
            reason,
            **names,
            held=[app.app_name or app.app_id for app in held],
        )
        yield from repair_found(docora, findings, change)


def plan_repair(queue: LinkQueue, findings: Sequence[Finding]) -> RepairResult:
    """Predicts the outcomes of a repair."""
    queued = RepairOutcome.QUEUED if queue.can_push else RepairOutcome.RESET
    planned = []
    for finding in findings:
        outcome, error = queued, None
        if finding.removal:
            outcome = RepairOutcome.REMOVED
        elif finding.drift.detail:
            outcome, error = RepairOutcome.NOT_REPAIRED, finding.drift.detail
        planned.append(Repaired(finding.drift, outcome, error))
    return RepairResult([finding.drift for finding in findings], planned, dry_run=True)


def repair_found(
    docora: Docora, findings: Sequence[Finding], change: Change
) -> Generator[RepairResult]:
    """Repairs drift, and yields the result so far after each batch.

    A lost link keeps its status, retry count and error. Counts a failure for each stuck link.
    Raises PostgresError, RedisError.
    """
    repaired: list[Repaired] = []
    result = RepairResult([finding.drift for finding in findings], repaired)
    audit = AuditEntries(change, result.total)
    stopped_by: StoppedBy | None = StoppedBy.INTERRUPTED
    try:
        yield result
        for _ in _remove_jobs(docora, findings, audit, repaired):
            yield result
        for _ in _queue_links(docora, findings, audit, repaired):
            yield result
        stopped_by = None
    except ServerError:
        stopped_by = StoppedBy.LOST_SERVER
        raise
    finally:
        with suppress(RedisError) if stopped_by else nullcontext():
            audit.write_end(docora.redis, result.counts, stopped_by)


def _remove_jobs(
    docora: Docora, findings: Sequence[Finding], audit: AuditEntries, repaired: list[Repaired]
) -> Iterator[None]:
    """Removes orphans, duplicates and stale entries. Yields after each transaction.

    Locks the repositories of orphans: otherwise, a link that is created again meanwhile would lose
    its job.
    """
    database, sweep = docora.database, docora.queue.sweep
    if sweep is None:
        return
    for wanted in batches([case for case in findings if case.removal], _JOBS_AT_ONCE):
        batch = [(case.drift, case.removal) for case in wanted if case.removal]
        orphans = [drift for drift, removal in batch if removal.is_orphan]
        with database.transaction():
            ids = {orphan.repository_id for orphan in orphans}
            locked_repositories = lock_against_new_links(database, ids)
            locked_jobs = locked_job_ids(database, [drift.job_id for drift, _ in batch])
            linked = linked_jobs(database, [orphan.job_id for orphan in orphans])
            to_remove = []
            for drift, removal in batch:
                is_free = drift.repository_id in locked_repositories and drift.job_id not in linked
                if drift.job_id not in locked_jobs and (is_free or not removal.is_orphan):
                    to_remove.append((drift, removal))
                else:
                    repaired.append(Repaired(drift, RepairOutcome.LEFT_ALONE))
            entry = next(iter(audit.start()), None)
            answers = sweep.remove([removal for _, removal in to_remove], entry)
            # Recorded before the commit, which only releases locks: Redis has removed the jobs.
            for (drift, _), answer in zip(to_remove, answers, strict=True):
                outcome, error = RepairOutcome.LEFT_ALONE, None
                if answer == "removed":
                    outcome = RepairOutcome.REMOVED
                elif answer.startswith("unreadable:"):
                    outcome = RepairOutcome.NOT_REPAIRED
                    error = f"its Redis key does not hold a job: {answer[11:]}"
                repaired.append(Repaired(drift, outcome, error))
            audit.has_begun |= "removed" in answers
        yield


def _queue_links(
    docora: Docora, findings: Sequence[Finding], audit: AuditEntries, repaired: list[Repaired]
) -> Iterator[None]:
    database, most = docora.database, docora.settings.max_retry_attempts
    unfinished = Claiming.of_unfinished(error=STUCK_ERROR, max_attempts=most)
    at_rest = Claiming.of_matching(LinkFilter(statuses=_AT_REST), resets=False)
    for claiming, statuses in ((unfinished, _UNFINISHED), (at_rest, _AT_REST)):
        wanted = [case for case in findings if case.status in statuses]
        disproved = {case.drift.job_id: case.disproved for case in wanted if case.disproved}
        changer = Changer(
            database,
            docora.queue,
            Action.REPAIR,
            claiming,
            commands=lambda _: audit.start(),
            disproved=disproved,
        )
        later: dict[LinkRef, Drift] = {}
        for batch in batches(wanted, docora.settings.batch_size):
            drifts = {(case.drift.app_id, case.drift.repository_id): case.drift for case in batch}
            refs = read_refs(database, list(drifts.values()))
            drift_of = {ref: drifts.pop((ref.app_id, ref.repository_id)) for ref in refs}
            repaired += [Repaired(gone, RepairOutcome.LEFT_ALONE) for gone in drifts.values()]
            for changed in changer.change_each(refs):
                _note(changed, drift_of, audit, repaired)
                later |= {ref: drift_of[ref] for ref in changed.later}
                yield
        changer.wait_for_rows()
        for ref in later:
            for changed in changer.change_each([ref]):
                _note(changed, later, audit, repaired)
                yield


def _note(
    changed: Changed,
    drift_of: Mapping[LinkRef, Drift],
    audit: AuditEntries,
    repaired: list[Repaired],
) -> None:
    audit.has_begun |= changed.has_written
    for item in changed.outcomes:
        outcome = _OUTCOMES.get(item.outcome, RepairOutcome.LEFT_ALONE)
        repaired.append(Repaired(drift_of[item.ref], outcome, item.error_message))


def recover_abandoned(
    database: Database, queue: LinkQueue, max_attempts: int
) -> Iterator[LinkOutcome | None]:
    """Counts a failure for each stuck link and queues it again.

    Yields the outcome of each link, or None if the link is left alone. Also yields None every
    second between two looks, so that the caller can send heartbeats.

    Raises PostgresError, RedisError; links recovered before the error stay recovered.

    max_attempts: a link with this number of failures becomes `failed`, and is not queued.
    """
    stuck = [ref for ref, _ in unfinished_links(database, only_stuck=True)]
    answers = list(look_at_jobs(database, queue, stuck))
    waiting = [ref for ref, answer in answers if answer.state is JobState.WAITING]
    claiming = Claiming.of_unfinished(error=STUCK_ERROR, max_attempts=max_attempts)
    changer = Changer(database, queue, Action.REPAIR, claiming)
    for _ in changer.find_misplaced(waiting, delay=SECOND_LOOK_DELAY):
        yield None
    for ref, answer in answers:
        recovered: list[LinkOutcome] = []
        if answer.state.is_over or ref.job_id in changer.disproved:
            # One link at a time, because this may wait for a lock.
            for changed in changer.change_each([ref]):
                recovered = [item for item in changed.outcomes if item.outcome in _OUTCOMES]
        yield recovered[0] if recovered else None
