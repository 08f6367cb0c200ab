"""One batch of a bulk operation: links that are locked, reset, queued and committed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from docora_ops.actions.job_ids import require_job_id_not_held, require_valid_job_id
from docora_ops.database import Database, Rollback
from docora_ops.database.links import (
    Claim,
    Verdict,
    claim_links,
    delete_deliveries_of,
    describe_links,
    held_job_ids,
    lock_link,
    read_link,
    shared_job_ids,
)
from docora_ops.errors import InvalidJobIdError, LinkError, LinkLockedError
from docora_ops.models import (
    PLANNED_OUTCOMES,
    JobState,
    LinkRef,
    LinkStatus,
    Operation,
    Outcome,
    PlannedLink,
)
from docora_ops.queue import Answer, LinkQueue, PushRequest, WaitingList


@dataclass(frozen=True, slots=True)
class Settled:
    """A link that needs no more work."""

    ref: LinkRef
    outcome: Outcome
    error: str | None = None


@dataclass(slots=True)
class Batch:
    """Links of one batch, settled or put off.

    In the final round nothing is put off; `seen` then holds, by the id of the link, a fingerprint
    of how its doubtful job looked in the first.
    """

    waiting: WaitingList
    seen: Mapping[str, int] | None = None
    settled: list[Settled] = field(default_factory=list)
    put_off: dict[str, int] = field(default_factory=dict)
    deliveries_cleared: int = 0

    @property
    def final(self) -> bool:
        """Whether this is the last round."""
        return self.seen is not None

    def still_doubtful(self, ref: LinkRef, answer: Answer) -> bool:
        """Whether nothing has happened to a doubtful job since the first round: it is dead."""
        return (
            self.seen is not None
            and answer.state is JobState.DOUBTFUL
            and self.seen[ref.id] == fingerprint(answer)
        )

    def settle(self, ref: LinkRef, outcome: Outcome, error: str | None = None) -> None:
        """The link is done with."""
        self.settled.append(Settled(ref, outcome, error))

    def leave(self, ref: LinkRef, answer: Answer) -> None:
        """The link's job is not to be touched now."""
        if answer.state is JobState.UNREADABLE:
            reason = f"its Redis key does not hold a job: {answer.detail}"
            self.settle(ref, Outcome.FAILED, reason)
        elif self.final:
            self.settle(ref, Outcome.ALREADY_RUNNING)
        else:
            self.put_off[ref.id] = fingerprint(answer)

    def put_off_unseen(self, ref: LinkRef) -> None:
        """The link's turn comes in the final round."""
        self.put_off[ref.id] = NOT_SEEN


NOT_SEEN = 0


def fingerprint(answer: Answer) -> int:
    """Eight bytes that change when the job is queued anew."""
    return hash(answer.detail) if answer.state is JobState.DOUBTFUL else NOT_SEEN


class BatchHandler(Protocol):
    """Settles the links of a batch."""

    def handle(self, refs: Sequence[LinkRef], batch: Batch) -> None:
        """Settle each link or put it off. Raises PostgresError, RedisError."""


class BatchWriter:
    """Queues links for real. A link that can't be queued costs only itself."""

    def __init__(self, database: Database, queue: LinkQueue, operation: Operation) -> None:
        self._database = database
        self._queue = queue
        self._operation = operation
        self._lock_wait_spent = False

    def handle(self, refs: Sequence[LinkRef], batch: Batch) -> None:
        """Settle each link or put it off. Raises PostgresError, RedisError."""
        self._write(separate(self._database, self._queue, refs, batch), batch)

    def _write(self, refs: Sequence[LinkRef], batch: Batch, *, wait: bool = False) -> None:
        try:
            self._transact(refs, batch, wait=wait)
        except LinkError as error:
            if len(refs) == 1:
                self._lock_wait_spent |= isinstance(error, LinkLockedError)
                batch.settle(refs[0], Outcome.FAILED, error.message)
                return
            for ref in refs:
                self._write([ref], batch)

    def _transact(self, refs: Sequence[LinkRef], batch: Batch, *, wait: bool) -> None:
        """Settles nothing unless the transaction, if there was one, has been committed."""
        job_ids = [ref.job_id for ref in refs]
        answers = self._queue.look(job_ids, waiting=batch.waiting)
        pending: dict[str, LinkRef] = {}
        live: set[str] = set()
        dead: dict[str, str] = {}
        left: list[tuple[LinkRef, Answer]] = []
        for ref, answer in zip(refs, answers, strict=True):
            if answer.state is JobState.WAITING:
                live.add(ref.job_id)
            elif batch.still_doubtful(ref, answer):
                dead[ref.job_id] = answer.detail
            elif answer.state is not JobState.NONE:
                left.append((ref, answer))
                continue
            pending[ref.job_id] = ref

        claims: dict[str, Claim] = {}
        outcomes: dict[str, Outcome] = {}
        while pending:
            refused: list[Answer] = []
            with self._database.transaction():
                claims = self._claim(list(pending.values()), wait=wait)
                payloads = [
                    claim.payload for claim in claims.values() if claim.verdict is Verdict.CLAIMED
                ]
                cleared = 0
                if self._operation is Operation.RESYNC:
                    cleared = delete_deliveries_of(self._database, payloads)
                for answer in self._queue.push(
                    [
                        PushRequest(
                            payload.job_id,
                            # A job that is live needs none: only its life is confirmed.
                            payload=None if payload.job_id in live else payload,
                            seen=dead.get(payload.job_id, ""),
                        )
                        for payload in payloads
                    ],
                    is_rescan=self._operation.is_rescan,
                    waiting=batch.waiting,
                ):
                    if answer.outcome is None:
                        refused.append(answer)
                    else:
                        # What was pushed in a first try is found waiting in the second.
                        outcomes.setdefault(answer.job_id, answer.outcome)
                if refused:
                    # Some have come to life since the look: undo all, try without them.
                    raise Rollback
            if not refused:
                batch.deliveries_cleared += cleared
                break
            for answer in refused:
                if answer.job_id in live:
                    live.discard(answer.job_id)
                else:
                    left.append((pending.pop(answer.job_id), answer))

        for ref, answer in left:
            batch.leave(ref, answer)
        for job_id, ref in pending.items():
            self._settle_claim(ref, claims.get(job_id), outcomes.get(job_id), batch, wait=wait)

    def _claim(self, refs: Sequence[LinkRef], *, wait: bool) -> dict[str, Claim]:
        if wait:
            for ref in refs:
                lock_link(self._database, ref.app_id, ref.repository_id)
        status = LinkStatus.FAILED if self._operation is Operation.RETRY else None
        claims = claim_links(self._database, [ref.id for ref in refs], status)
        return {claim.payload.job_id: claim for claim in claims}

    def _settle_claim(
        self,
        ref: LinkRef,
        claim: Claim | None,
        outcome: Outcome | None,
        batch: Batch,
        *,
        wait: bool,
    ) -> None:
        if claim is None:
            self._settle_unclaimed(ref, batch, wait=wait)
        elif claim.verdict is Verdict.CHANGED:
            batch.settle(ref, Outcome.SKIPPED)
        elif claim.verdict is Verdict.RUNNING:
            batch.leave(ref, Answer(ref.job_id, JobState.RUNNING))
        else:
            assert outcome is not None
            batch.settle(ref, outcome)

    def _settle_unclaimed(self, ref: LinkRef, batch: Batch, *, wait: bool) -> None:
        """The link is gone, or somebody else has locked its row."""
        if not batch.final:
            batch.put_off_unseen(ref)
        elif wait or read_link(self._database, ref.app_id, ref.repository_id) is None:
            batch.settle(ref, Outcome.SKIPPED)
        elif self._lock_wait_spent:
            # Waiting for each of ten thousand rows that one session holds would take a day.
            batch.settle(ref, Outcome.FAILED, "another session holds a lock on its row")
        else:
            self._write([ref], batch, wait=True)


class BatchPlanner:
    """Says what a writer would do, and changes nothing."""

    def __init__(self, database: Database, queue: LinkQueue) -> None:
        self._database = database
        self._queue = queue
        self.planned: list[PlannedLink] = []

    def handle(self, refs: Sequence[LinkRef], batch: Batch) -> None:
        """Settle each link or put it off. Raises PostgresError, RedisError."""
        able = separate(self._database, self._queue, refs, batch)
        job_ids = [ref.job_id for ref in able]
        held = held_job_ids(self._database, job_ids)
        answers = self._queue.look(job_ids, waiting=batch.waiting, detailed=True)
        for ref, answer in zip(able, answers, strict=True):
            outcome = PLANNED_OUTCOMES.get(answer.state)
            if batch.still_doubtful(ref, answer):
                outcome = Outcome.REPLACED_STALE
            if ref.job_id in held:
                batch.leave(ref, Answer(ref.job_id, JobState.RUNNING))
            elif outcome is None:
                batch.leave(ref, answer)
            else:
                batch.settle(ref, outcome)
        self._describe(batch.settled)

    def _describe(self, settled: Sequence[Settled]) -> None:
        names = describe_links(self._database, [item.ref.id for item in settled])
        for item in settled:
            app_name, repository = names.get(item.ref.id, ("", ""))
            self.planned.append(
                PlannedLink(
                    app_id=item.ref.app_id,
                    app_name=app_name,
                    repository_id=item.ref.repository_id,
                    repository=repository,
                    outcome=item.outcome,
                    error=item.error,
                )
            )


def separate(
    database: Database, queue: LinkQueue, refs: Sequence[LinkRef], batch: Batch
) -> list[LinkRef]:
    """The links that can have their job id now; the others are settled or put off."""
    shared = shared_job_ids(database, refs)
    able: dict[str, LinkRef] = {}
    for ref in refs:
        try:
            require_valid_job_id(ref)
            if ref.job_id in shared and batch.final:
                require_job_id_not_held(queue, ref)
                if ref.job_id in able:
                    raise InvalidJobIdError(
                        f"the job id {ref.job_id!r} is held by the job of another link"
                    )
        except InvalidJobIdError as error:
            batch.settle(ref, Outcome.FAILED, error.message)
        else:
            if ref.job_id in shared and not batch.final:
                batch.put_off_unseen(ref)
            else:
                able[ref.job_id] = ref
    return list(able.values())
