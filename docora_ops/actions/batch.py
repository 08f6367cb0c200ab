"""One batch of links: they are claimed, queued and committed together, with their audit entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import urandom
from sys import intern
from threading import Event, Thread

from docora_ops.actions.find_drift import Suspects, pause_between_looks
from docora_ops.actions.look import (
    invalid_job_id,
    look_at_jobs,
    named_failures,
    outcome_of,
    why_not_queued,
)
from docora_ops.bulk import NO_OPTIONS, ChangeOptions
from docora_ops.database import Database, Rollback
from docora_ops.database.circuits import circuits_to_reset, reset_circuits
from docora_ops.database.link_rows import (
    Claim,
    Claiming,
    clear_deliveries,
    count_deliveries,
    lock_link,
    names_of,
    read_link,
)
from docora_ops.drift import RepairOutcome
from docora_ops.errors import LinkError, LinkLockedError, PostgresError, StatementTimeoutError
from docora_ops.interrupts import held_back
from docora_ops.jobs import JobState
from docora_ops.links import Action, LinkFailure, LinkRef, Outcome, PlannedLink
from docora_ops.operations import Change, StoppedBy
from docora_ops.queue import Answer, LinkQueue, PushRequest, Redis
from docora_ops.queue.audit_stream import AuditEntry, AuditEvent, add_entry, audit_entry

Counts = Mapping[Outcome, int] | Mapping[RepairOutcome, int]

STUCK_ERROR = "the snapshot was cut off: its worker was killed"
"""Error of a link whose scan ended without a result."""
_LONGEST_WAIT = 1  # seconds that a batch waits, with rows locked, for the batch before it
_SLOW_LINKS_IN_A_ROW = 2
"""Once this many single links in a row have timed out, the whole server is too slow."""
MISSED = "its snapshot is running; resync it again when that has ended"
_CUT_OFF = "its snapshot was cut off too often: the link is failed now"
# A link that is not queued was stuck too often, and is failed now.
_CHANGES = (Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.RESET, Outcome.NOT_QUEUED)


@dataclass(frozen=True, slots=True)
class LinkOutcome:
    """The outcome of one link."""

    ref: LinkRef
    outcome: Outcome
    error_message: str | None = None


@dataclass(slots=True)
class Batch:
    """The outcomes of the links of one batch."""

    recorded: list[LinkOutcome] = field(default_factory=list)
    unclaimed: list[LinkRef] = field(default_factory=list)
    """Links that are gone, or whose rows other sessions have locked."""
    waiting: list[LinkRef] = field(default_factory=list)
    """Links that were put aside, see `BatchExecution.misplaced`."""
    failures: list[LinkFailure] = field(default_factory=list)
    """Links that were not queued, with their names."""
    deliveries_cleared: int = 0
    circuits_reset: set[str] = field(default_factory=set)
    """Ids of repositories."""
    circuits_held: set[str] = field(default_factory=set)
    """Ids of repositories whose circuits could not be reset: other sessions hold their rows."""
    after: Event | None = None
    """Set once the batch before this one has pushed its jobs."""
    pushed: Event = field(default_factory=Event)

    def record(self, ref: LinkRef, outcome: Outcome, error_message: str | None = None) -> None:
        """Records the outcome of a link."""
        self.recorded.append(LinkOutcome(ref, outcome, error_message))

    def record_invalid(self, refs: Iterable[LinkRef]) -> list[LinkRef]:
        """Records links with invalid job ids as not queued. Returns the other links."""
        valid = []
        for ref in refs:
            if ref.has_valid_job_id:
                valid.append(ref)
            else:
                self.record(ref, Outcome.NOT_QUEUED, invalid_job_id(ref).message)
        return valid


@dataclass(slots=True)
class AuditEntries:
    """The two audit entries of one run, for its start and its end.

    Bulk operations write both entries together with their progress. Other runs write the first one
    with their first change, so a run that changes nothing leaves no entry.
    """

    change: Change
    total: int
    operation_id: str | None = None
    has_begun: bool = False
    has_ended: bool = False
    deliveries_cleared: int = 0  # deleted or, with `--update`, marked
    run: str = field(default_factory=lambda: urandom(8).hex())

    def entry(
        self,
        event: AuditEvent,
        counts: Counts,
        stopped_by: StoppedBy | None = None,
        cancelled_by: str | None = None,
    ) -> AuditEntry:
        """Returns the entry for the start or the end of the run. `counts`: links by outcome."""
        name = "deliveries_marked" if self.change.selection.get("update") else "deliveries_cleared"
        found = {str(key): count for key, count in counts.items()} | {name: self.deliveries_cleared}
        return audit_entry(
            self.change,
            event,
            run=self.run,
            operation_id=self.operation_id,
            counts={"total": self.total} | {name: count for name, count in found.items() if count},
            stopped_by=stopped_by,
            cancelled_by=cancelled_by,
        )

    def start(self) -> AuditEntry | None:
        """Returns the entry for the start of the run, or None if it has been written."""
        return None if self.has_begun else self.entry(AuditEvent.STARTED, {})

    def write_end(self, redis: Redis, counts: Counts, stopped_by: StoppedBy | None) -> None:
        """Writes the entry for the end of a run that has begun, once. Raises RedisError."""
        if self.has_begun and not self.has_ended:
            add_entry(redis, self.entry(AuditEvent.ENDED, counts, stopped_by))
            self.has_ended = True


@dataclass(slots=True)
class BatchExecution:
    """Queues the links of batches.

    claim_links: locks and changes the links that still qualify.
    audit: the audit entries of the run; None if the change is not recorded.
    operation_id: the operation that keeps the row ids of claimed links.
    waits_for_circuits: wait for circuits that other sessions hold. A bulk operation does not: one
        wait per link could take days.
    misplaced: by job id, the evidence against waiting jobs that no worker would take: see
        `find_misplaced`. None: nobody has looked for them, and links whose jobs wait are put aside.
    """

    database: Database
    queue: LinkQueue
    action: Action
    claim_links: Claiming
    audit: AuditEntries | None = None
    options: ChangeOptions = NO_OPTIONS
    operation_id: str | None = None
    waits_for_circuits: bool = False
    misplaced: Mapping[str, str] | None = None
    _has_waited_in_vain: bool = False
    _slow_links: int = 0

    def find_misplaced(self, refs: Sequence[LinkRef], *, delay: float) -> Iterator[Suspects]:
        """Finds the jobs whose status says that they wait, though no worker would ever take them.

        RQ, or a Redis that has lost writes, leaves such jobs. Looks twice, as RQ takes a job out of
        the list a moment before it registers it elsewhere. Yields Suspects between the looks, and
        holds no lock. The push checks once more, and replaces what still stands nowhere.
        Raises RedisError.

        delay: seconds between the two looks.
        """
        self.misplaced, sweep = {}, self.queue.sweep
        if sweep is None:
            return
        first = sweep.misplaced([ref.job_id for ref in refs if ref.has_valid_job_id])
        if first:
            yield from pause_between_looks(len(first), delay)
            second = sweep.misplaced(first)
            self.misplaced = {id_: seen for id_, seen in second.items() if seen == first[id_]}

    def execute(self, refs: Sequence[LinkRef], batch: Batch, *, wait: bool = False) -> None:
        """Queues the links together. `wait`: wait for locked rows.

        If a single link can't be queued, records its error. If one of several can't be queued,
        raises LinkError; the caller then queues each link by itself. Raises PostgresError,
        RedisError.
        """
        try:
            self.claim_and_push(refs, batch, wait=wait)
        except LinkError as error:
            if len(refs) > 1:
                raise
            self._slow_links += isinstance(error, StatementTimeoutError)
            if self._slow_links == _SLOW_LINKS_IN_A_ROW:
                raise PostgresError(error.message, hint=error.hint) from error
            batch.record(refs[0], Outcome.NOT_QUEUED, error.message)
            self._has_waited_in_vain |= isinstance(error, LinkLockedError)
        else:
            self._slow_links = 0
        self._name_failures(batch)

    def execute_locked(self, ref: LinkRef, batch: Batch) -> None:
        """Queues a link that was unclaimed, and waits for its row.

        After one wait in vain, no longer waits: ten thousand waits would take a day.
        """
        self.execute([ref], batch, wait=not self._has_waited_in_vain)
        if batch.unclaimed:
            batch.unclaimed.clear()
            if read_link(self.database, ref.app_id, ref.repository_id) is None:
                batch.record(ref, Outcome.SKIPPED)
            else:
                batch.record(ref, Outcome.NOT_QUEUED, "another session holds a lock on its row")
            self._name_failures(batch)

    def _name_failures(self, batch: Batch) -> None:
        """Lists the links that were not queued, without their names if Postgres is unavailable."""
        failed = []
        for item in batch.recorded:
            if item.outcome is Outcome.ALREADY_RUNNING and self.action is Action.RESYNC:
                failed.append((item.ref, MISSED))
            elif item.error_message is not None:
                failed.append((item.ref, item.error_message))
        try:
            batch.failures = named_failures(self.database, failed)
        except PostgresError:
            batch.failures = [
                LinkFailure(ref.job_id, ref.app_id, ref.repository_id, error)
                for ref, error in failed
            ]

    def claim_and_push(self, refs: Sequence[LinkRef], batch: Batch, *, wait: bool = False) -> None:
        """Claims and queues links in one transaction, and records their outcomes after the commit.

        If the push finds a running job, rolls back and tries again without that link. The jobs of
        the other links then count as already queued. `wait`: wait for locked rows.
        Raises LinkError, PostgresError, RedisError.
        """
        candidates = self._candidates(batch.record_invalid(refs), batch)
        if not candidates:
            return
        done = Batch()
        outcomes: dict[str, Outcome] = {}
        refused: list[Answer] = []
        with self.database.transaction():
            if wait:
                for ref in candidates.values():
                    lock_link(self.database, ref.app_id, ref.repository_id)
            row_ids = [ref.id for ref in candidates.values()]
            found = self.claim_links(self.database, row_ids)
            claims = {claim.payload.job_id: claim for claim in found}
            changed = [
                claims[job_id]
                for job_id in candidates  # in this order they are queued
                if job_id in claims
                # A link that is not queued is `failed` now.
                and claims[job_id].outcome in {None, Outcome.NOT_QUEUED}
            ]
            payloads = [claim.payload for claim in changed]
            if self.action is Action.RESYNC:
                done.deliveries_cleared = clear_deliveries(
                    self.database, payloads, update=self.options.update, path=self.options.path
                )
            if self.options.reset_circuit:
                ids = {payload.repository_id for payload in payloads}
                open_circuits = circuits_to_reset(self.database, ids)
                done.circuits_reset = reset_circuits(
                    self.database, open_circuits, wait=self.waits_for_circuits
                )
                done.circuits_held = open_circuits - done.circuits_reset
            if batch.after:
                batch.after.wait(_LONGEST_WAIT)
            for answer in self._push(changed, candidates):
                is_failed = claims[answer.job_id].outcome is Outcome.NOT_QUEUED
                if not answer.state.is_over if is_failed else answer.outcome is None:
                    refused.append(answer)
                outcomes[answer.job_id] = outcome_of(answer)
            if refused:
                raise Rollback
            batch.pushed.set()
        if refused:
            for answer in refused:
                ref = candidates.pop(answer.job_id)
                batch.record(ref, outcome_of(answer), why_not_queued(answer))
            self.claim_and_push(list(candidates.values()), batch, wait=wait)
            return
        for job_id, ref in candidates.items():
            claim = claims.get(job_id)
            if claim is None:
                batch.unclaimed.append(ref)
                continue
            reason = _CUT_OFF if claim.outcome is Outcome.NOT_QUEUED else None
            batch.record(ref, claim.outcome or outcomes[job_id], reason)
        batch.deliveries_cleared += done.deliveries_cleared
        batch.circuits_reset |= done.circuits_reset
        batch.circuits_held |= done.circuits_held

    def _candidates(self, refs: Sequence[LinkRef], batch: Batch) -> dict[str, LinkRef]:
        """Returns the links to claim, by job id, and records the others.

        The push judges each job again. This look keeps most transactions from being rolled back.
        """
        candidates = {}
        answers = self.queue.look([ref.job_id for ref in refs])
        for ref, answer in zip(refs, answers, strict=True):
            is_left = answer.state in {JobState.RUNNING, JobState.UNREADABLE} or (
                # Claiming a stuck link counts a failure.
                self.action is Action.REPAIR
                and answer.state is JobState.WAITING
                and ref.job_id not in (self.misplaced or ())
            )
            if is_left:
                batch.record(ref, outcome_of(answer), why_not_queued(answer))
            elif not self._is_put_aside(ref, answer, batch):
                candidates[ref.job_id] = ref
        return candidates

    def _is_put_aside(self, ref: LinkRef, answer: Answer, batch: Batch) -> bool:
        """Puts the link aside if its job waits and nobody has looked where the job stands."""
        is_unknown = self.misplaced is None and self.queue.sweep is not None
        is_put_aside = is_unknown and answer.state is JobState.WAITING
        if is_put_aside:
            batch.waiting.append(ref)
        return is_put_aside

    def _push(self, claims: Sequence[Claim], refs: Mapping[str, LinkRef]) -> list[Answer]:
        """Queues the jobs of claimed links. Writes the first audit entry with the first change.

        `refs`: the links by job id.
        """
        requests = [
            PushRequest(
                claim.payload.job_id,
                None if claim.outcome else claim.payload,
                is_rescan=self.action.is_rescan(claim.status),
                disproved=(self.misplaced or {}).get(claim.payload.job_id, ""),
                row_id=refs[claim.payload.job_id].id,
            )
            for claim in claims
        ]
        # A job that already waits is a change if its link is reset.
        resets = self.action in {Action.RETRY, Action.RESYNC}
        changes = (*_CHANGES, Outcome.ALREADY_QUEUED) if resets else _CHANGES
        start = self.audit.start() if self.audit else None
        entries = dict.fromkeys(changes, start) if start else {}
        answers = self.queue.push(
            requests, front=self.options.front, operation_id=self.operation_id, audit=entries
        )
        if self.audit and any(
            answer.outcome in entries or (not answer.outcome and answer.state.is_over)
            for answer in answers
        ):
            self.audit.has_begun = True
        return answers

    def plan(self, refs: Sequence[LinkRef], batch: Batch) -> list[PlannedLink]:
        """Records the outcomes that `execute` would have, and returns them. Changes nothing."""
        for ref, answer in look_at_jobs(self.database, self.queue, batch.record_invalid(refs)):
            if self._is_put_aside(ref, answer, batch):
                continue
            outcome = outcome_of(answer)
            if answer.state is JobState.WAITING and ref.job_id in (self.misplaced or ()):
                outcome = Outcome.REPLACED_STALE
            batch.record(ref, outcome, why_not_queued(answer))
        queued = [item.ref for item in batch.recorded if item.outcome.succeeded]
        if self.options.reset_circuit:
            ids = {ref.repository_id for ref in queued}
            batch.circuits_reset = circuits_to_reset(self.database, ids)
        if self.action is Action.RESYNC:
            batch.deliveries_cleared = count_deliveries(
                self.database, queued, path=self.options.path
            )
        names = names_of(self.database, [item.ref for item in batch.recorded])
        planned = []
        for item, (app_name, repository_name) in zip(batch.recorded, names, strict=True):
            ref = item.ref
            # One string for all links of an app: there may be a million.
            link = (intern(ref.app_id), app_name or "", ref.repository_id, repository_name or "")
            planned.append(PlannedLink(ref.job_id, *link, item.outcome, item.error_message))
        self._name_failures(batch)
        return planned


class BatchInFlight:
    """A batch that is executed in a thread, so that its transaction never waits for a caller.

    after: the batch that is to push its jobs before this one.
    """

    def __init__(
        self, execution: BatchExecution, refs: Sequence[LinkRef], after: BatchInFlight | None
    ) -> None:
        self.execution, self.refs = execution, refs
        self.batch: Batch = Batch(after=after.batch.pushed if after else None)
        self._error: Exception | None = None
        # A daemon: nobody waits for it after a second signal.
        self._thread = Thread(target=self._run, daemon=True)
        with held_back():  # a signal that another thread gets does not wake the main thread
            self._thread.start()

    def _run(self) -> None:
        try:
            self.execution.execute(self.refs, self.batch)
        except Exception as error:  # noqa: BLE001 - raised in `result`
            self._error = error
        finally:
            self.batch.pushed.set()

    def result(self) -> Batch:
        """Waits for the end of the batch. Raises what `BatchExecution.execute` raised."""
        self._thread.join()
        if self._error:
            raise self._error
        return self.batch
