"""Mending what is out of step between database and queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from sys import intern

from docora_ops.actions.bulk.audit_trail import RunTrail
from docora_ops.actions.bulk.batch import Settled
from docora_ops.actions.bulk.run import BulkRun, Stop
from docora_ops.actions.repair.belonging import count_jobs_with_links
from docora_ops.actions.repair.find import Suspect, confirmed, named
from docora_ops.audit import ChangeNote
from docora_ops.database import Database, Selection
from docora_ops.database.link_rows import (
    claim_unfinished_links,
    describe_links,
    held_job_ids,
    links_of_jobs,
)
from docora_ops.database.unfinished import lock_against_new_links
from docora_ops.drift import DriftKind, Finding, Mended, Mending, RepairResult
from docora_ops.errors import LinkError, ServersMismatchedError
from docora_ops.links import Action, LinkRef, Outcome
from docora_ops.queue import LinkQueue, ProgressStore
from docora_ops.queue.sweep import Removal, RemovalAnswer
from docora_ops.spool import Fields, Spool

LINKS_AT_ONCE = 500
"""Links that are locked, queued and committed together."""
_ENTRIES_AT_ONCE = 2000
"""Entries that are removed together: Redis walks over its list once for all of them."""
_REMOVALS = {
    DriftKind.ORPHAN: Removal.ORPHAN,
    DriftKind.DUPLICATE: Removal.DUPLICATE,
    DriftKind.STALE_ENTRY: Removal.STALE,
}
_MENDINGS = {
    Outcome.QUEUED: Mending.QUEUED,
    Outcome.REPLACED_STALE: Mending.QUEUED,
    Outcome.FAILED: Mending.FAILED,
}


@dataclass
class Repair:
    """One repair, of everything, one app or one link.

    `result()` says at any moment what has been done: so it does after a server was lost midway.
    """

    database: Database
    queue: LinkQueue
    store: ProgressStore
    grace_seconds: float
    app_id: str | None = None
    ref: LinkRef | None = None
    remove_unknown_jobs: bool = False
    """Repair even if the jobs in the queue do not look like jobs of this database."""
    note: ChangeNote | None = None
    """For the audit trail."""
    stop: Stop = field(default_factory=Stop)
    on_progress: Callable[[int], None] = lambda _completed: None
    before_second_look: Callable[[int], object] = lambda _suspects: None
    _found: Counter[DriftKind] = field(default_factory=Counter)
    _links: dict[DriftKind, list[LinkRef]] = field(default_factory=dict)
    _entries: Spool[Finding] = field(default_factory=lambda: Spool(_finding_fields, _finding))
    _mended: Spool[Mended] = field(default_factory=lambda: Spool(_mended_fields, _mended_of))
    _counts: Counter[Mending] = field(default_factory=Counter)
    _dry_run: bool = False
    _trail: RunTrail | None = None

    def find(self) -> RepairResult:
        """Look, and look again, for what there is to mend.

        Raises PostgresError, RedisError, and ServersMismatchedError if there is something to mend
        and the two servers do not seem to belong together.
        """
        self._links = {kind: [] for kind in _LINK_KINDS}
        for suspect in confirmed(
            self.database,
            self.queue,
            grace_seconds=self.grace_seconds,
            before_second_look=self.before_second_look,
            app_id=self.app_id,
            ref=self.ref,
        ):
            kind = suspect.finding.kind
            if not kind.is_drift:
                continue
            self._found[kind] += 1
            if kind in self._links:
                self._links[kind].append(_ref(suspect))
            else:
                self._entries.append(suspect.finding)
        if self._found and not self.remove_unknown_jobs:
            self._require_that_servers_belong_together()
        return self.result()

    def _require_that_servers_belong_together(self) -> None:
        # Queueing is refused, too: jobs of this database in the other Docora's queue would make
        # the two look as if they belonged together, and the next repair would remove its jobs.
        found = count_jobs_with_links(self.database, self.queue)
        if not found.is_plausible:
            raise ServersMismatchedError(
                f"{self.database.target} and Redis at {self.queue.where} do not seem to belong "
                f"together: {found}. Nothing was changed",
                hint="check DATABASE_URL, REDIS_URL and DOCORA_OPS_QUEUE_NAME; if all are right, "
                "and the links were deleted: docora-ops repair --remove-unknown-jobs",
                details={"jobs": found.jobs, "jobs_without_link": found.without_link},
            )

    def run(self) -> RepairResult:
        """Mend it; killed at any point, a new repair finishes the rest. Raises the same.

        A link gets its job in the way of a bulk retry, but keeps its retries and its last error.
        """
        if self.note is not None:
            self._trail = RunTrail(self.note, self.result().total)
        self._remove_entries()
        for kind, refs in self._links.items():
            if refs and not self.stop.requested:
                self._bulk_run(kind, refs).run()
        self.end_trail()
        return self.result()

    def end_trail(self) -> None:
        """Say in the audit trail how the repair has ended, if it has begun. Raises RedisError."""
        if self._trail is None or not self._trail.begun or self._trail.ended:
            return
        result = self.result()
        self.store.record(self._trail.end(result.counts, cancelled=not result.complete))
        self._trail.ended = True

    def plan(self) -> RepairResult:
        """What `run` would do; changes nothing. Raises the same."""
        self._dry_run = True
        for findings in self._batches_of_entries():
            for finding in findings:
                self._note(Mended(finding, Mending.REMOVED))
        for kind, refs in self._links.items():
            if refs:
                self._bulk_run(kind, refs).plan()
        return self.result()

    def result(self) -> RepairResult:
        """What has been found and done so far."""
        found = {kind: self._found[kind] for kind in DriftKind if kind.is_drift}
        return RepairResult(found, self._counts, self._mended, self._dry_run)

    # Links without a job

    def _bulk_run(self, kind: DriftKind, refs: Sequence[LinkRef]) -> BulkRun:
        def note(settled: Sequence[Settled]) -> None:
            names = describe_links(self.database, [item.ref.id for item in settled])
            for item in settled:
                app_name, repository = names.get(item.ref.id, (None, None))
                finding = Finding(
                    kind,
                    item.ref.job_id,
                    app_id=item.ref.app_id,
                    app_name=app_name,
                    repository_id=item.ref.repository_id,
                    repository=repository,
                )
                mending = _MENDINGS.get(item.outcome, Mending.LEFT_ALONE)
                self._note(Mended(finding, mending, item.error))

        return BulkRun(
            Action.REPAIR,
            self.database,
            self.queue,
            self.store,
            Selection(refs, (), claim_unfinished_links),
            LINKS_AT_ONCE,
            trail=self._trail,
            stop=self.stop,
            on_settled=note,
        )

    # Entries of the queue

    def _batches_of_entries(self) -> Iterator[list[Finding]]:
        for start in range(0, len(self._entries), _ENTRIES_AT_ONCE):
            yield named(self.database, self._entries[start : start + _ENTRIES_AT_ONCE])

    def _remove_entries(self) -> None:
        held_back: list[Finding] = []
        for findings in self._batches_of_entries():
            if self.stop.requested:
                return
            held_back += self._remove(findings)
        by_repository: dict[str | None, list[Finding]] = {}
        for finding in held_back:
            by_repository.setdefault(finding.repository_id, []).append(finding)
        for findings in by_repository.values():
            if self.stop.requested:
                return
            try:
                self._remove(findings, wait=True)
            except LinkError as error:
                for finding in findings:
                    self._note(Mended(finding, Mending.FAILED, error.message))

    def _remove(self, findings: Sequence[Finding], *, wait: bool = False) -> list[Finding]:
        """Remove what is wrong still; returns orphans whose repository somebody else holds.

        A link that is made anew while its old job goes would be left without one: none is made
        as long as the repositories are locked.
        """
        orphans = [finding for finding in findings if finding.kind is DriftKind.ORPHAN]
        with self.database.transaction():
            repositories = [finding.repository_id or "" for finding in orphans]
            free = lock_against_new_links(self.database, repositories, wait=wait)
            held_back = [finding for finding in orphans if finding.repository_id not in free]
            excluded = {id(finding) for finding in held_back}
            able = [finding for finding in findings if id(finding) not in excluded]
            in_hand = held_job_ids(self.database, [finding.job_id for finding in able])
            linked = {
                link.job_id
                for link in links_of_jobs(self.database, [finding.job_id for finding in orphans])
            }
            todo: list[Finding] = []
            left: list[Finding] = []
            for finding in able:
                alive = finding.job_id in in_hand or (
                    finding.kind is DriftKind.ORPHAN and finding.job_id in linked
                )
                (left if alive else todo).append(finding)
            answers = self._sweep(todo)
        for finding in left:
            self._note(Mended(finding, Mending.LEFT_ALONE))
        for finding, (answer, reason) in zip(todo, answers, strict=True):
            self._note(_after_removal(finding, answer, reason))
        return held_back

    def _sweep(self, findings: Sequence[Finding]) -> list[tuple[RemovalAnswer, str]]:
        trail = self._trail
        answers = self.queue.sweep.remove(
            [(_REMOVALS[finding.kind], finding.job_id) for finding in findings],
            trail.start() if trail and not trail.begun else None,
        )
        if trail and any(answer is RemovalAnswer.REMOVED for answer, _ in answers):
            trail.begun = True
        return answers

    def _note(self, mended: Mended) -> None:
        self._mended.append(mended)
        self._counts[mended.mending] += 1
        self.on_progress(len(self._mended))


_LINK_KINDS = (DriftKind.LOST, DriftKind.STUCK)


def _ref(suspect: Suspect) -> LinkRef:
    finding = suspect.finding
    return LinkRef(suspect.link_id, intern(finding.app_id or ""), finding.repository_id or "")


def _after_removal(finding: Finding, answer: RemovalAnswer, reason: str) -> Mended:
    match answer:
        case RemovalAnswer.REMOVED:
            return Mended(finding, Mending.REMOVED)
        case RemovalAnswer.UNREADABLE:
            return Mended(finding, Mending.FAILED, f"its Redis key does not hold a job: {reason}")
    return Mended(finding, Mending.LEFT_ALONE)


def _finding_fields(finding: Finding) -> Fields:
    return (
        finding.kind,
        finding.job_id,
        finding.app_id,
        finding.app_name,
        finding.repository_id,
        finding.repository,
        finding.detail,
    )


def _finding(fields: Fields) -> Finding:
    kind, job_id, app_id, app_name, repository_id, repository, detail = fields
    return Finding(
        DriftKind(kind or ""),
        job_id or "",
        app_id,
        app_name,
        repository_id,
        repository,
        detail or "",
    )


def _mended_fields(mended: Mended) -> Fields:
    return mended.mending, mended.error, *_finding_fields(mended.finding)


def _mended_of(fields: Fields) -> Mended:
    mending, error, *finding = fields
    return Mended(_finding(finding), Mending(mending or ""), error)
