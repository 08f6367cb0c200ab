"""Batches for real: links that are locked, changed, queued and committed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from docora_ops.actions.bulk.audit_trail import RunTrail
from docora_ops.actions.bulk.batch import Batch, fingerprint, separate
from docora_ops.actions.job_ids import require_job_id_not_held
from docora_ops.database import Database, Rollback
from docora_ops.database.link_rows import Claim, Verdict, delete_deliveries, lock_link, read_link
from docora_ops.database.selection import Claiming
from docora_ops.errors import (
    InvalidJobIdError,
    LinkError,
    LinkLockedError,
    PostgresError,
    StatementTimeoutError,
)
from docora_ops.jobs import JobState
from docora_ops.links import Action, LinkRef, Outcome
from docora_ops.queue import Answer, LinkQueue, PushRequest

_SLOW_LINKS_IN_A_ROW = 2
"""After so many links that each alone took too long, the server is what is slow."""
_ONE_SHARING_LINK_AT_A_TIME = Lock()
"""Of two links that share a job id only one may have it, so both must not look at once."""


@dataclass(slots=True)
class _Todo:
    """Links that are to be claimed, by job id, and what is known of their jobs."""

    refs: dict[str, LinkRef] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    """Jobs that wait already."""
    dead: dict[str, str] = field(default_factory=dict)
    """Jobs that were doubtful twice, with the moment when they were queued."""
    pushed: set[str] = field(default_factory=set)
    """Jobs that a try before this one has pushed."""
    left: list[tuple[LinkRef, Answer]] = field(default_factory=list)
    """Links whose jobs are not to be touched now."""

    def refuse(self, answer: Answer) -> None:
        """The queue did not take this one: it is not waiting any more, or has come to life."""
        if answer.job_id in self.live:
            self.live.remove(answer.job_id)
        else:
            self.left.append((self.refs.pop(answer.job_id), answer))


class BatchWriter:
    """Queues links for real. A link that can't be queued costs only itself."""

    def __init__(
        self,
        database: Database,
        queue: LinkQueue,
        operation: Action,
        claim: Claiming,
        trail: RunTrail | None = None,
    ) -> None:
        self._database = database
        self._queue = queue
        self._operation = operation
        self._claim_links = claim
        self._trail = trail
        self._lock_wait_spent = False
        self._look_first = True
        self._slow_links = 0

    def handle(self, batch: Batch) -> None:
        """Settle each link or put it off. Raises PostgresError, RedisError."""
        try:
            alone, sharing = separate(self._database, batch)
            if batch.final:
                for ref in sharing:
                    # Before the lock: the batch before may be waiting for it.
                    batch.wait_for_turn()
                    with _ONE_SHARING_LINK_AT_A_TIME:
                        self._write_sharing(ref, batch)
            else:
                self._put_off(sharing, batch)
            self._write(alone, batch)
        finally:
            batch.pushed.set()

    def _put_off(self, refs: Sequence[LinkRef], batch: Batch) -> None:
        """Their turn comes in the final round, which needs to know how their jobs stand now."""
        job_ids = [ref.job_id for ref in refs]
        answers = self._queue.look(job_ids, waiting=batch.waiting) if refs else []
        for ref, answer in zip(refs, answers, strict=True):
            batch.put_off[ref.id] = fingerprint(answer)

    def _write_sharing(self, ref: LinkRef, batch: Batch) -> None:
        try:
            require_job_id_not_held(self._queue, ref)
            unclaimed = self._transact([ref], batch, sharing=True)
        except (InvalidJobIdError, LinkError) as error:
            batch.settle(ref, Outcome.FAILED, error.message)
        else:
            self._settle_unclaimed(unclaimed, batch)

    def _write(self, refs: Sequence[LinkRef], batch: Batch, *, wait: bool = False) -> None:
        if not refs:
            return
        try:
            unclaimed = self._transact(refs, batch, wait=wait)
        except LinkError as error:
            if len(refs) > 1:
                for ref in refs:
                    self._write([ref], batch, wait=wait)
                return
            self._fail_alone(refs[0], error, batch)
        else:
            self._slow_links = 0
            self._settle_unclaimed(unclaimed, batch, waited=wait)

    def _fail_alone(self, ref: LinkRef, error: LinkError, batch: Batch) -> None:
        batch.settle(ref, Outcome.FAILED, error.message)
        self._lock_wait_spent |= isinstance(error, LinkLockedError)
        if isinstance(error, StatementTimeoutError):
            self._slow_links += 1
            if self._slow_links == _SLOW_LINKS_IN_A_ROW:
                raise PostgresError(error.message, hint=error.hint)  # it is the server

    def _settle_unclaimed(
        self, refs: Sequence[LinkRef], batch: Batch, *, waited: bool = False
    ) -> None:
        """The links are gone, or somebody else has locked their rows."""
        if not batch.final:
            self._put_off(refs, batch)
            return
        for ref in refs:
            if waited:
                batch.settle(ref, Outcome.SKIPPED)
                continue
            try:
                gone = read_link(self._database, ref.app_id, ref.repository_id) is None
            except LinkError as error:
                self._fail_alone(ref, error, batch)
                continue
            if gone:
                batch.settle(ref, Outcome.SKIPPED)
            elif self._lock_wait_spent:
                # Waiting for each of ten thousand rows that one session holds would take a day.
                batch.settle(ref, Outcome.FAILED, "another session holds a lock on its row")
            else:
                self._write([ref], batch, wait=True)

    def _transact(
        self,
        refs: Sequence[LinkRef],
        batch: Batch,
        *,
        wait: bool = False,
        sharing: bool = False,
    ) -> list[LinkRef]:
        """Lock, change and queue links together; returns those whose rows it did not get.

        Settles nothing unless the transaction, if there was one, has been committed.
        """
        todo = self._sort(refs, batch)
        claims: dict[str, Claim] = {}
        outcomes: dict[str, Outcome] = {}
        while todo.refs:
            refused: list[Answer] = []
            with self._database.transaction():
                claims = self._claim(list(todo.refs.values()), wait=wait)
                # In the order of the links, which is not the order of the rows.
                found = [claims[job_id] for job_id in todo.refs if job_id in claims]
                claimed = [claim for claim in found if claim.verdict is Verdict.CLAIMED]
                cleared = 0
                if self._operation is Action.RESYNC:
                    payloads = [claim.payload for claim in claimed]
                    cleared = delete_deliveries(self._database, payloads)
                for answer in self._push(claimed, todo, batch):
                    if answer.outcome is None:
                        refused.append(answer)
                    else:
                        # What was pushed in a first try is found waiting in the second.
                        outcomes.setdefault(answer.job_id, answer.outcome)
                        todo.pushed.add(answer.job_id)
                    if sharing and answer.outcome is Outcome.ALREADY_QUEUED:
                        # The other link may have been queued since the check.
                        require_job_id_not_held(self._queue, refs[0])
                if refused:
                    # Some have come to life since the look: undo all, try without them.
                    raise Rollback
            if not refused:
                batch.deliveries_cleared += cleared
                break
            for answer in refused:
                todo.refuse(answer)

        self._look_first = bool(todo.left or todo.live or todo.dead)
        for ref, answer in todo.left:
            batch.leave(ref, answer)
        unclaimed: list[LinkRef] = []
        for job_id, ref in todo.refs.items():
            claim = claims.get(job_id)
            if claim is None:
                unclaimed.append(ref)
            elif claim.verdict is Verdict.CHANGED:
                # Unless a job of ours, pushed in a first try, is what has changed it.
                batch.settle(ref, outcomes.get(job_id, Outcome.SKIPPED))
            elif claim.verdict is Verdict.RUNNING:
                batch.leave(ref, Answer(job_id, JobState.RUNNING))
            else:
                batch.settle(ref, outcomes[job_id])
        return unclaimed

    def _sort(self, refs: Sequence[LinkRef], batch: Batch) -> _Todo:
        todo = _Todo()
        for ref, answer in zip(refs, self._look(refs, batch), strict=True):
            if answer.state is JobState.WAITING and self._operation is Action.REPAIR:
                batch.settle(ref, Outcome.ALREADY_QUEUED)  # it has mended itself
                continue
            if answer.state is JobState.WAITING:
                todo.live.add(ref.job_id)
            elif batch.still_doubtful(ref, answer):
                todo.dead[ref.job_id] = answer.detail or answer.enqueued_at
            elif answer.enqueued_at and not batch.final and batch.waiting.walks_left <= 0:
                # By then it is known whether it was queued since the list was read.
                todo.left.append((ref, answer))
                continue
            elif answer.state is not JobState.NONE and not (
                # Queued anew since the first round: the push finds out where it stands.
                batch.final and answer.state is JobState.DOUBTFUL
            ):
                todo.left.append((ref, answer))
                continue
            todo.refs[ref.job_id] = ref
        return todo

    def _look(self, refs: Sequence[LinkRef], batch: Batch) -> list[Answer]:
        """Where the jobs stand, so that no link is reset only to be given back.

        Left out where it did not pay in the batch before: a push looks for itself.
        """
        job_ids = [ref.job_id for ref in refs]
        if self._look_first or batch.final:
            return self._queue.look(job_ids, waiting=batch.waiting)
        return [Answer(job_id, JobState.NONE) for job_id in job_ids]

    def _claim(self, refs: Sequence[LinkRef], *, wait: bool) -> dict[str, Claim]:
        if wait:
            for ref in refs:
                lock_link(self._database, ref.app_id, ref.repository_id)
        claims = self._claim_links(self._database, [ref.id for ref in refs])
        return {claim.payload.job_id: claim for claim in claims}

    def _push(self, claims: Sequence[Claim], todo: _Todo, batch: Batch) -> list[Answer]:
        requests = [
            PushRequest(
                job_id := claim.payload.job_id,
                # A job that is live needs none: only its life is confirmed.
                payload=None if job_id in todo.live else claim.payload,
                is_rescan=self._operation.is_rescan(claim.status),
                seen=todo.dead.get(job_id, ""),
                is_repeated=job_id in todo.pushed,
            )
            for claim in claims
        ]
        batch.wait_for_turn()
        audit = self._trail.start_with_push() if self._trail else None
        answers = self._queue.push(requests, waiting=batch.waiting, audit=audit)
        if self._trail:
            self._trail.notice(answers)
        batch.pushed.set()
        return answers
