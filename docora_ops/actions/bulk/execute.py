"""Execution of one batch: links are claimed, queued and committed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from docora_ops.actions.bulk.audit_entries import AuditEntries
from docora_ops.actions.bulk.batch import Batch
from docora_ops.actions.decision import decide
from docora_ops.database import Database, Rollback
from docora_ops.database.circuits import circuits_to_reset, reset_circuits
from docora_ops.database.link_rows import Claim, ClaimState, clear_deliveries, lock_link, read_link
from docora_ops.database.selection import Claiming
from docora_ops.errors import LinkError, LinkLockedError, PostgresError, StatementTimeoutError
from docora_ops.jobs import JobState
from docora_ops.links import Action, LinkRef, Outcome
from docora_ops.queue import Answer, LinkQueue, PushRequest, WaitingList

_SLOW_LINKS_IN_A_ROW = 2
"""If so many links, each by itself, take too long, the whole server is too slow."""
_MOST_SEARCHES = 50
"""Jobs that are searched in the list although it was read: each search may walk over all of it."""
_CHANGED_BY_US = frozenset({ClaimState.CLAIMED, ClaimState.EXHAUSTED})
_AUDITED = frozenset({Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.RESET, Outcome.NOT_QUEUED})
"""Outcomes of a push with which a run has begun. Failed is a link that was stuck too often."""

_Left = tuple[LinkRef, Outcome | None, Answer]
"""A link that is not to be claimed, and the decision about it."""


@dataclass(slots=True)
class _Candidate:
    """A link that is to be claimed and queued."""

    ref: LinkRef
    evidence: str = ""  # evidence of a job that was doubtful at two looks
    is_pushed: bool = False  # an earlier attempt, which was rolled back, has pushed the job


@dataclass(slots=True)
class BatchExecution:
    """Queues the links of batches. A link that can't be queued costs only itself."""

    database: Database
    queue: LinkQueue
    action: Action
    claim_links: Claiming
    audit: AuditEntries | None = None
    front: bool = False
    reset_circuit: bool = False
    operation_id: str | None = None  # keeps the links that are claimed
    update: bool = False  # a resync marks the delivery records instead of deleting them
    _has_waited_for_lock: bool = False
    _must_look: bool = True
    _slow_links: int = 0
    _searches_left: int = _MOST_SEARCHES
    _list_of_searches: WaitingList | None = None

    def handle(self, batch: Batch) -> None:
        """Records or postpones each link. Raises PostgresError, RedisError."""
        if batch.waiting is not self._list_of_searches:
            self._list_of_searches, self._searches_left = batch.waiting, _MOST_SEARCHES
        try:
            self._execute(batch.record_invalid(), batch)
        finally:
            batch.pushed.set()

    def _execute(self, refs: Sequence[LinkRef], batch: Batch, *, wait: bool = False) -> None:
        """Queues the links together; if one of them is refused, each by itself.

        `wait`: waits for locked rows.
        """
        if not refs:
            return
        try:
            unclaimed = self._claim_and_push(refs, batch, wait=wait)
        except LinkError as error:
            if len(refs) > 1:
                for ref in refs:
                    self._execute([ref], batch, wait=wait)
            else:
                self._record_error(refs[0], error, batch)
        else:
            self._slow_links = 0
            self._handle_unclaimed(unclaimed, batch, waited=wait)

    def _record_error(self, ref: LinkRef, error: LinkError, batch: Batch) -> None:
        batch.record(ref, Outcome.NOT_QUEUED, error.message)
        self._has_waited_for_lock |= isinstance(error, LinkLockedError)
        if isinstance(error, StatementTimeoutError):
            self._slow_links += 1
            if self._slow_links == _SLOW_LINKS_IN_A_ROW:
                raise PostgresError(error.message, hint=error.hint)

    def _handle_unclaimed(self, refs: Sequence[LinkRef], batch: Batch, *, waited: bool) -> None:
        """Handles links that are gone, or whose rows another session has locked."""
        if not batch.is_final:
            self._postpone(refs, batch)
            return
        for ref in refs:
            if waited:
                batch.record(ref, Outcome.SKIPPED)
                continue
            try:
                is_gone = read_link(self.database, ref.app_id, ref.repository_id) is None
            except LinkError as error:
                self._record_error(ref, error, batch)
                continue
            if is_gone:
                batch.record(ref, Outcome.SKIPPED)
            elif self._has_waited_for_lock:
                # Waiting for each of ten thousand locked rows would take a day.
                batch.record(ref, Outcome.NOT_QUEUED, "another session holds a lock on its row")
            else:
                self._execute([ref], batch, wait=True)

    def _postpone(self, refs: Sequence[LinkRef], batch: Batch) -> None:
        """Keeps the evidence of the jobs for the second round."""
        job_ids = [ref.job_id for ref in refs]
        answers = self.queue.look(job_ids, waiting=batch.waiting)
        for ref, answer in zip(refs, answers, strict=True):
            batch.postponed[ref.id] = answer.evidence

    def _claim_and_push(
        self, refs: Sequence[LinkRef], batch: Batch, *, wait: bool
    ) -> list[LinkRef]:
        """Claims and queues links in one transaction. Returns the links that were not claimed.

        Records nothing before the commit. If a job has become live since the look, all is rolled
        back and attempted again without that link.
        """
        candidates, left = self._look(refs, batch)
        claims: dict[str, Claim] = {}
        outcomes: dict[str, Outcome] = {}
        has_found_jobs = False
        while candidates:
            refused: list[Answer] = []
            with self.database.transaction():
                claims = self._claim(candidates, wait=wait)
                changed = [claim for claim in claims.values() if claim.state in _CHANGED_BY_US]
                cleared = 0
                if self.action is Action.RESYNC:
                    payloads = [claim.payload for claim in changed]
                    cleared = clear_deliveries(self.database, payloads, update=self.update)
                batch.wait_for_turn()
                to_reset = self._circuits_to_reset(changed)
                # Waiting for one circuit with each link would take days.
                circuits = reset_circuits(self.database, to_reset, wait=False)
                for answer in self._push(changed, candidates, batch):
                    if _is_refused(claims[answer.job_id], answer):
                        refused.append(answer)
                    elif answer.outcome is not None:
                        # A job of an attempt that was rolled back is found waiting in the next.
                        outcomes.setdefault(answer.job_id, answer.outcome)
                        candidates[answer.job_id].is_pushed = True
                        is_kept = answer.outcome is Outcome.ALREADY_QUEUED
                        has_found_jobs |= is_kept or answer.has_replaced
                if refused:
                    raise Rollback  # the next attempt pushes again, before the next batch
                batch.pushed.set()
            if not refused:
                batch.deliveries_cleared += cleared
                batch.circuits_reset |= circuits
                batch.circuits_held |= to_reset - circuits
                break
            if self.queue.is_docoras:  # nothing was pushed
                outcomes.clear()
            for answer in refused:
                ref = candidates.pop(answer.job_id).ref
                left.append((ref, decide(answer), answer))

        # A look bounds the searches for finished and stale jobs that seem to have just been queued.
        self._must_look = bool(left) or has_found_jobs
        for decision in left:
            batch.record_decision(*decision)
        return self._record_claims(candidates, claims, outcomes, batch)

    def _record_claims(
        self,
        candidates: Mapping[str, _Candidate],
        claims: Mapping[str, Claim],
        outcomes: Mapping[str, Outcome],
        batch: Batch,
    ) -> list[LinkRef]:
        unclaimed = []
        for job_id, candidate in candidates.items():
            ref, claim = candidate.ref, claims.get(job_id)
            if claim is None:
                unclaimed.append(ref)
                continue
            match claim.state:
                case ClaimState.CLAIMED:
                    batch.record(ref, outcomes[job_id])
                case ClaimState.CHANGED:
                    # Unless a job that an earlier attempt has pushed is what changed it.
                    batch.record(ref, outcomes.get(job_id, Outcome.SKIPPED))
                case ClaimState.LOCKED:
                    batch.record_decision(ref, None, Answer(job_id, JobState.RUNNING))
                case ClaimState.EXHAUSTED:
                    reason = "its snapshot was cut off too often: the link is failed now"
                    batch.record(ref, Outcome.NOT_QUEUED, reason)
        return unclaimed

    def _look(
        self, refs: Sequence[LinkRef], batch: Batch
    ) -> tuple[dict[str, _Candidate], list[_Left]]:
        """Returns the links to claim, by job id, and the decisions about the other links."""
        candidates: dict[str, _Candidate] = {}
        left: list[_Left] = []
        for ref, answer in zip(refs, self._answers(refs, batch), strict=True):
            earlier = batch.evidence_of(ref)
            outcome = decide(answer, earlier)
            if answer.state is JobState.RUNNING or self._must_wait(answer, earlier, batch):
                left.append((ref, None, answer))
            elif outcome is Outcome.NOT_QUEUED or (
                outcome is Outcome.ALREADY_QUEUED and self.action is Action.REPAIR
            ):
                left.append((ref, outcome, answer))
            else:
                evidence = earlier if answer.evidence == earlier else ""
                candidates[ref.job_id] = _Candidate(ref, evidence)
        return candidates, left

    def _must_wait(self, answer: Answer, earlier: str, batch: Batch) -> bool:
        """Tells whether the job may have been queued since the list was read.

        A push finds out by a search in the list: in the first round, only a few jobs are searched.
        """
        if batch.is_final or answer.evidence in {"", earlier}:
            return False
        if answer.state is JobState.DOUBTFUL:
            return True
        self._searches_left -= 1
        return self._searches_left < 0

    def _answers(self, refs: Sequence[LinkRef], batch: Batch) -> list[Answer]:
        """Returns where the jobs stand, so that few transactions are rolled back.

        Skipped if the previous batch found no jobs; the push checks again anyway.
        """
        job_ids = [ref.job_id for ref in refs]
        if self._must_look or batch.is_final:
            return self.queue.look(job_ids, waiting=batch.waiting)
        return [Answer(job_id, JobState.NONE) for job_id in job_ids]

    def _claim(self, candidates: Mapping[str, _Candidate], *, wait: bool) -> dict[str, Claim]:
        """Returns the claims by job id, in the order of the candidates."""
        refs = [candidate.ref for candidate in candidates.values()]
        if wait:
            for ref in refs:
                lock_link(self.database, ref.app_id, ref.repository_id)
        claims = {
            claim.payload.job_id: claim
            for claim in self.claim_links(self.database, [ref.id for ref in refs])
        }
        return {job_id: claims[job_id] for job_id in candidates if job_id in claims}

    def _circuits_to_reset(self, claims: Sequence[Claim]) -> set[str]:
        if not self.reset_circuit:
            return set()
        return circuits_to_reset(self.database, {claim.payload.repository_id for claim in claims})

    def _push(
        self, claims: Sequence[Claim], candidates: Mapping[str, _Candidate], batch: Batch
    ) -> list[Answer]:
        """Queues the jobs of claimed links."""
        requests = []
        for claim in claims:
            job_id = claim.payload.job_id
            candidate = candidates[job_id]
            requests.append(
                PushRequest(
                    job_id,
                    payload=claim.payload if claim.state is ClaimState.CLAIMED else None,
                    is_rescan=self.action.is_rescan(claim.status),
                    seen=candidate.evidence,
                    is_repeated=candidate.is_pushed,
                    row_id=candidate.ref.id,
                )
            )
        start = self.audit.start() if self.audit else None
        entries = dict.fromkeys(_AUDITED, start) if start else {}
        answers = self.queue.push(
            requests,
            waiting=batch.waiting,
            front=self.front,
            operation_id=self.operation_id,
            audit=entries,
        )
        if self.audit and any(
            answer.outcome in _AUDITED or answer.state is JobState.NONE for answer in answers
        ):
            self.audit.has_begun = True
        return answers


def _is_refused(claim: Claim, answer: Answer) -> bool:
    """Tells whether the push found the job in another state than the look."""
    if claim.state is ClaimState.EXHAUSTED:
        return answer.state is not JobState.NONE
    return answer.outcome is None
