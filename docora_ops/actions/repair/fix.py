"""Repairs drift between database and queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from docora_ops.actions.belonging import require_primary, require_servers_to_match
from docora_ops.actions.bulk.audit_entries import AuditEntries, interruption
from docora_ops.actions.bulk.execute import STUCK_ERROR, LinkOutcome
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.repair.find import confirmed, named
from docora_ops.audit import Change
from docora_ops.batches import batches
from docora_ops.bulk import StoppedBy
from docora_ops.database import Database, Selection
from docora_ops.database.drift_rows import (
    exhausted_links,
    link_statuses,
    lock_against_new_links,
)
from docora_ops.database.link_rows import claim_unfinished_links, held_job_ids
from docora_ops.drift import AppDrift, Drift, DriftKind, Repaired, RepairOutcome, RepairResult
from docora_ops.errors import LinkError
from docora_ops.interrupts import Stop
from docora_ops.links import Action, LinkRef, Outcome
from docora_ops.queue import LinkQueue, ProgressStore, WaitingList
from docora_ops.queue.sweep import QueueSweep

_LINKS_AT_ONCE = 500  # links that are locked, queued and committed together
_NAMED_AT_ONCE = 5000
_ENTRIES_AT_ONCE = 50
"""Jobs that are removed together, so that Redis is held for a few milliseconds."""
_AppAndKind = tuple[str, DriftKind]
"""App id and kind of drift."""
_PUT_TO_WORK = {RepairOutcome.QUEUED, RepairOutcome.RESET}
_OUTCOMES = {
    Outcome.QUEUED: RepairOutcome.QUEUED,
    Outcome.REPLACED_STALE: RepairOutcome.QUEUED,
    Outcome.RESET: RepairOutcome.RESET,
    Outcome.NOT_QUEUED: RepairOutcome.NOT_REPAIRED,
}


@dataclass
class Repair:
    """One repair of everything, one app or one link."""

    database: Database
    queue: LinkQueue
    store: ProgressStore
    grace_seconds: float
    max_attempts: int  # failures after which a stuck link is `failed` instead of queued again
    app_id: str | None = None
    ref: LinkRef | None = None
    remove_unknown_jobs: bool = False
    """Repair even if the jobs in the queue do not look like jobs of this database."""
    change: Change | None = None  # for the audit entries
    stop: Stop = field(default_factory=Stop)
    on_progress: Callable[[int], None] = lambda _completed: None
    before_second_look: Callable[[int], object] = lambda _suspects: None
    _found: Counter[_AppAndKind] = field(default_factory=Counter)
    _app_names: dict[str, str | None] = field(default_factory=dict)
    _links: dict[LinkRef, DriftKind] = field(default_factory=dict)  # lost and stuck links
    _drifts: dict[str, Drift] = field(default_factory=dict)  # theirs, with names, by job id
    _jobs: list[Drift] = field(default_factory=list)  # orphans, duplicates and stale entries
    _repaired: list[Repaired] = field(default_factory=list)
    _dry_run: bool = False
    _audit: AuditEntries | None = None

    def find(self) -> RepairResult:
        """Finds the drift to repair; writes nothing.

        Raises ServersMismatchedError if there is drift and the servers do not belong together, and
        PostgresError on a standby.
        """
        require_primary(self.database)
        examples: dict[str, Drift] = {}  # by app id
        for suspect in confirmed(
            self.database,
            self.queue,
            grace_seconds=self.grace_seconds,
            before_second_look=self.before_second_look,
            app_id=self.app_id,
            ref=self.ref,
        ):
            kind = suspect.drift.kind
            if not kind.is_drift:
                continue
            if suspect.drift.app_id not in examples:
                examples[suspect.drift.app_id] = suspect.drift
            self._found[suspect.drift.app_id, kind] += 1
            if suspect.ref is not None:
                self._links[suspect.ref] = kind
            else:
                self._jobs.append(suspect.drift)
        if self._found and not self.remove_unknown_jobs:
            require_servers_to_match(self.database, self.queue, all_jobs=True)
        if examples:
            named_examples = named(self.database, list(examples.values()))
            self._app_names = {drift.app_id: drift.app_name for drift in named_examples}
        return self.result()

    def run(self) -> RepairResult:
        """Repairs the drift that was found; if killed, a new repair finishes the rest.

        A lost link keeps its retries and its error; a stuck link counts a failure. After a
        lost server, `result` returns what has been done.
        """
        if self.change is not None:
            self._audit = AuditEntries(self.change, self._found.total())
        self._remove_jobs()
        if self._links and not self.stop.requested:
            self._bulk_run().run()
        self.break_off()
        return self.result()

    def break_off(self) -> None:
        """Records the end of the repair if it has begun. Raises RedisError."""
        if self._audit is not None:
            result = self.result()
            reason = interruption(self.stop) or StoppedBy.LOST_SERVER
            stopped_by = reason if result.completed < result.total else None
            self._audit.write_end(self.store, result.counts, stopped_by)

    def plan(self) -> RepairResult:
        """Returns what `run` would do; writes nothing. Raises PostgresError, RedisError."""
        self._dry_run = True
        for drifts in self._batches_of_jobs():
            self._record(Repaired(drift, RepairOutcome.REMOVED) for drift in drifts)
        if self._links:
            self._bulk_run().plan()
        return self.result()

    def result(self) -> RepairResult:
        """Returns what has been found and done so far."""
        found = {kind: 0 for kind in DriftKind if kind.is_drift}
        done: dict[_AppAndKind, Counter[RepairOutcome]] = {each: Counter() for each in self._found}
        for (_, kind), count in self._found.items():
            found[kind] += count
        for item in self._repaired:
            done[item.drift.app_id, item.drift.kind][item.outcome] += 1
        by_app = [
            AppDrift(app_id, self._app_names.get(app_id), kind, count, done[app_id, kind])
            for (app_id, kind), count in self._found.most_common()
        ]
        counts = sum(done.values(), Counter())
        return RepairResult(found, counts, by_app, self._repaired, self._dry_run)

    def _record(self, repaired: Iterable[Repaired]) -> None:
        self._repaired += repaired
        self.on_progress(len(self._repaired))

    # Links without a job

    def _bulk_run(self) -> BulkRun:
        # Named before the work: a server that was lost can't be asked.
        drifts = [Drift(kind, ref.app_id, ref.repository_id) for ref, kind in self._links.items()]
        for some in batches(drifts, _NAMED_AT_ONCE):
            self._drifts |= {drift.job_id: drift for drift in named(self.database, some)}
        claim = partial(claim_unfinished_links, error=STUCK_ERROR, max_attempts=self.max_attempts)
        return BulkRun(
            Action.REPAIR,
            self.database,
            self.queue,
            self.store,
            Selection(list(self._links), (), claim),
            _LINKS_AT_ONCE,
            audit=self._audit,
            stop=self.stop,
            on_recorded=self._record_links,
        )

    def _record_links(self, recorded: Sequence[LinkOutcome]) -> None:
        exhausted = self._exhausted(recorded) if self._dry_run else set()
        for item in recorded:
            outcome = _OUTCOMES.get(item.outcome, RepairOutcome.LEFT_ALONE)
            error = item.error_message
            if item.ref.id in exhausted:
                outcome = RepairOutcome.NOT_REPAIRED
                error = "its snapshot was cut off too often: the link would be failed"
            self._repaired.append(Repaired(self._drifts[item.ref.job_id], outcome, error))
        self.on_progress(len(self._repaired))

    def _exhausted(self, planned: Sequence[LinkOutcome]) -> set[str]:
        """Returns the row ids of the links that would be failed instead of queued."""
        ids = [item.ref.id for item in planned if _OUTCOMES.get(item.outcome) in _PUT_TO_WORK]
        return exhausted_links(self.database, ids, self.max_attempts)

    # Jobs that are removed

    def _batches_of_jobs(self) -> Iterator[list[Drift]]:
        for batch in batches(self._jobs, _ENTRIES_AT_ONCE):
            yield named(self.database, batch)

    def _remove_jobs(self) -> None:
        sweep = self.queue.sweep
        if sweep is None or not self._jobs:
            return
        waiting = self.queue.read_waiting()
        sweep.prepare()
        by_locked_repository: dict[str, list[Drift]] = {}
        for drifts in self._batches_of_jobs():
            if self.stop.requested:
                return
            for drift in self._remove(sweep, drifts, waiting):
                by_locked_repository.setdefault(drift.repository_id, []).append(drift)
        for drifts in by_locked_repository.values():
            if self.stop.requested:
                return
            try:
                for some in batches(drifts, _ENTRIES_AT_ONCE):
                    self._remove(sweep, some, waiting, wait=True)
            except LinkError as error:
                failed = (
                    Repaired(each, RepairOutcome.NOT_REPAIRED, error.message) for each in drifts
                )
                self._record(failed)

    def _remove(
        self,
        sweep: QueueSweep,
        drifts: Sequence[Drift],
        waiting: WaitingList,
        *,
        wait: bool = False,
    ) -> list[Drift]:
        """Removes the jobs and entries; returns the orphans whose repository is locked elsewhere.

        The locks keep the links of orphans from being created anew while their jobs are removed:
        such a link would be left without a job.
        """
        orphans = [drift for drift in drifts if drift.kind is DriftKind.ORPHAN]
        repositories = {orphan.repository_id for orphan in orphans}
        with self.database.transaction():
            locked = lock_against_new_links(self.database, repositories, wait=wait)
            in_use = held_job_ids(self.database, [drift.job_id for drift in drifts])
            linked = link_statuses(self.database, [orphan.job_id for orphan in orphans])
            held_back, left, to_remove = [], [], []
            for drift in drifts:
                is_orphan = drift.kind is DriftKind.ORPHAN
                if is_orphan and drift.repository_id not in locked:
                    held_back.append(drift)
                elif drift.job_id in in_use or (is_orphan and drift.job_id in linked):
                    left.append(drift)
                else:
                    to_remove.append(drift)
            start = self._audit.start() if self._audit else None
            removed = sweep.remove(to_remove, waiting, start)
            if self._audit and any(item.outcome is RepairOutcome.REMOVED for item in removed):
                self._audit.has_begun = True
            # Before the commit, which only ends the locks: Redis has removed them.
            self._record(Repaired(drift, RepairOutcome.LEFT_ALONE) for drift in left)
            self._record(removed)
        return held_back
