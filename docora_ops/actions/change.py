"""Changes links: claims them in Postgres and queues their jobs, or does neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from docora_ops.actions.drift import Suspects, pause_between_looks
from docora_ops.actions.link_jobs import invalid_job_id, look_at_jobs, outcome_of, why_not_queued
from docora_ops.database import Database, Rollback
from docora_ops.database.circuits import circuits_to_reset, reset_circuits
from docora_ops.database.claims import Claim, Claiming, claim_links
from docora_ops.database.deliveries import clear_deliveries, count_deliveries
from docora_ops.database.link_rows import read_link
from docora_ops.errors import LinkError, LinkLockedError, PostgresError, StatementTimeoutError
from docora_ops.jobs import JobState
from docora_ops.links import Action, LinkRef, LinkStatus, Outcome
from docora_ops.operations import NO_OPTIONS, ChangeOptions
from docora_ops.queue import Answer, Command, LinkQueue, PushRequest

_SLOW_LINKS_IN_A_ROW = 2
"""After this many single links in a row have timed out, the whole server counts as too slow."""
CUT_OFF = "its snapshot was cut off too often: the link is failed now"


@dataclass(frozen=True, slots=True)
class LinkOutcome:
    """The outcome of one link."""

    ref: LinkRef
    outcome: Outcome
    error_message: str | None = None


@dataclass(slots=True)
class Changed:
    """The outcomes of the links of one batch.

    waiting: links whose jobs wait, and for which `find_misplaced` has not run yet.
    unclaimed: links that are gone, or whose rows are locked by other sessions.
    deliveries: the number of delivery records deleted or, with `--update`, marked.
    circuits_reset: ids of repositories whose circuits were reset.
    circuits_held: ids of repositories whose circuits could not be reset, because their rows are
        locked by other sessions.
    has_written: whether Redis has run the commands of the change.
    """

    outcomes: list[LinkOutcome] = field(default_factory=list)
    waiting: list[LinkRef] = field(default_factory=list)
    unclaimed: list[LinkRef] = field(default_factory=list)
    deliveries: int = 0
    circuits_reset: set[str] = field(default_factory=set)
    circuits_held: set[str] = field(default_factory=set)
    has_written: bool = False


@dataclass(slots=True)
class Changer:
    """Changes batches of links, each batch in one transaction.

    commands: returns the Redis commands to run atomically with the push of these links' jobs.
    waits_for_circuits: wait for rows of circuits that other sessions have locked. Bulk operations
        skip them, because one timeout per link could take days.
    waits_for_rows: wait for rows of links that other sessions have locked, instead of skipping
        them. Stops waiting after the first timeout, because ten thousand timeouts take a day.
    disproved: by job id, the evidence that no worker would take a waiting job. None until
        `find_misplaced` has run; until then, links whose jobs wait are put aside.
    """

    database: Database
    queue: LinkQueue
    action: Action
    claiming: Claiming
    options: ChangeOptions = NO_OPTIONS
    commands: Callable[[Sequence[LinkRef]], Sequence[Command]] = lambda _: ()
    waits_for_circuits: bool = False
    waits_for_rows: bool = False
    disproved: Mapping[str, str] | None = None
    _slow_links: int = 0
    _has_waited_in_vain: bool = False

    def change_each(self, refs: Sequence[LinkRef]) -> Iterator[Changed]:
        """Changes links in one transaction or, if Postgres refuses because of a row, one by one.

        Yields after each transaction. Raises PostgresError, also if the server is too slow for
        single links; RedisError.
        """
        try:
            changed = self.change(refs)
        except LinkError as error:
            if len(refs) > 1:
                for ref in refs:
                    yield from self.change_each([ref])
                return
            self._slow_links += isinstance(error, StatementTimeoutError)
            if self._slow_links == _SLOW_LINKS_IN_A_ROW:
                raise PostgresError(error.message, hint=error.hint) from error
            changed = Changed([LinkOutcome(refs[0], Outcome.NOT_QUEUED, error.message)])
        yield changed

    def change(self, refs: Sequence[LinkRef]) -> Changed:
        """Changes links in one transaction, and returns their outcomes after the commit.

        Leaves out links whose job is running or unreadable. Raises LinkError if Postgres refuses
        because of a row; PostgresError, RedisError. After an error, no link is changed.
        """
        self.queue.prepare()
        changed = Changed()
        todo, is_refused = list(_without_invalid(refs, changed)), True
        try:
            while todo and is_refused:
                left = self._claim_and_push(todo, changed)
                is_refused = bool(left)
                todo = [ref for ref in todo if not self._is_left(ref, left, changed)]
        except LinkLockedError:
            self._has_waited_in_vain |= self.waits_for_rows
            if len(todo) > 1 or not self._is_running(todo[0]):
                raise
            changed.outcomes.append(LinkOutcome(todo[0], Outcome.ALREADY_RUNNING))
        if self.waits_for_rows:
            self._give_up_unclaimed(changed)
        self._slow_links = 0
        return changed

    def _give_up_unclaimed(self, changed: Changed) -> None:
        for ref in changed.unclaimed:
            outcome, reason = Outcome.SKIPPED, None
            link = read_link(self.database, ref.app_id, ref.repository_id)
            if link and link.ref.id == ref.id:
                outcome, reason = Outcome.NOT_QUEUED, "another session holds a lock on its row"
                if self._is_running(ref):
                    outcome, reason = Outcome.ALREADY_RUNNING, None
            changed.outcomes.append(LinkOutcome(ref, outcome, reason))
        changed.unclaimed.clear()

    def _is_running(self, ref: LinkRef) -> bool:
        """Tells whether the link's job is running, so that its worker may have locked the row."""
        [answer] = self.queue.look([ref.job_id])
        return answer.state is JobState.RUNNING

    def _claim_and_push(self, refs: Sequence[LinkRef], changed: Changed) -> dict[str, Answer]:
        """Changes links in one transaction, and adds their outcomes to `changed` after the commit.

        If any jobs can't be pushed, changes nothing and returns the answers for these jobs by id.
        """
        by_id = {ref.id: ref for ref in refs}
        wait = self.waits_for_rows and not self._has_waited_in_vain
        done = Changed()
        left: dict[str, Answer] = {}
        with self.database.transaction():
            claims = {
                claim.id: claim
                for claim in claim_links(self.database, list(by_id), self.claiming, wait=wait)
            }
            # In the order of `refs`. A link with NOT_QUEUED has just become `failed`.
            to_push = [
                (ref, claims[ref.id])
                for ref in refs
                if ref.id in claims and claims[ref.id].outcome in {None, Outcome.NOT_QUEUED}
            ]
            self._change_rest([ref for ref, _ in to_push], done)
            answers = self._push(to_push)
            left = {answer.job_id: answer for answer in answers if answer.is_left}
            if left:
                raise Rollback
        if left:
            return left
        pushed = {answer.job_id: answer.outcome for answer in answers}
        unchanged = {Outcome.ALREADY_QUEUED} if self.action is Action.SCHEDULE else set()
        changed.has_written |= not unchanged.issuperset(pushed.values())
        for ref in refs:
            claim = claims.get(ref.id)
            if claim is None:
                changed.unclaimed.append(ref)
            else:
                outcome = claim.outcome or pushed[ref.job_id] or Outcome.SKIPPED
                reason = CUT_OFF if outcome is Outcome.NOT_QUEUED else None
                changed.outcomes.append(LinkOutcome(ref, outcome, reason))
        changed.deliveries += done.deliveries
        changed.circuits_reset |= done.circuits_reset
        changed.circuits_held |= done.circuits_held
        return {}

    def _change_rest(self, refs: Sequence[LinkRef], done: Changed) -> None:
        """Changes the delivery records and circuits of claimed links."""
        options = self.options
        if self.action is Action.RESYNC:
            done.deliveries = clear_deliveries(
                self.database, refs, update=options.update, path=options.path
            )
        if options.reset_circuit:
            to_reset = circuits_to_reset(self.database, {ref.repository_id for ref in refs})
            done.circuits_reset = reset_circuits(
                self.database, to_reset, wait=self.waits_for_circuits
            )
            done.circuits_held = to_reset - done.circuits_reset

    def _push(self, claims: Sequence[tuple[LinkRef, Claim]]) -> list[Answer]:
        requests = [
            PushRequest(
                ref.job_id,
                None if claim.outcome else claim.payload,
                is_rescan=self.action.is_rescan(claim.status),
                was_failed=claim.status == LinkStatus.FAILED,
                disproved=(self.disproved or {}).get(ref.job_id, ""),
            )
            for ref, claim in claims
        ]
        return self.queue.push(
            requests,
            # Claiming a stuck link counts a failure, which must not happen if its job waits.
            leaves_waiting=self._puts_aside or self.action is Action.REPAIR,
            front=self.options.front,
            exempts=self.options.now,
            changes_links=self.action is not Action.SCHEDULE,
            commands=self.commands([ref for ref, _ in claims]),
        )

    @property
    def _puts_aside(self) -> bool:
        return self.disproved is None and self.queue.can_push

    def _is_left(self, ref: LinkRef, left: Mapping[str, Answer], changed: Changed) -> bool:
        """Tells whether the link's job could not be pushed, and records why."""
        answer = left.get(ref.job_id)
        if answer is None:
            return False
        if answer.state is JobState.WAITING and self._puts_aside:
            changed.waiting.append(ref)
        else:
            reason = why_not_queued(answer)
            changed.outcomes.append(LinkOutcome(ref, outcome_of(answer), reason))
        return True

    def find_misplaced(self, refs: Sequence[LinkRef], *, delay: float) -> Iterator[Suspects]:
        """Finds jobs that are marked as waiting, but that no worker would ever take.

        RQ leaves such jobs behind, and so does a Redis that has lost writes. Looks twice, because
        RQ removes a job from the list a moment before it adds it elsewhere. Yields Suspects between
        the looks, and holds no lock. The push checks again, and replaces only jobs that are still
        nowhere. Raises RedisError.

        delay: seconds between the two looks.
        """
        self.disproved, sweep = {}, self.queue.sweep
        if sweep is None:
            return
        first = sweep.misplaced([ref.job_id for ref in refs if ref.has_valid_job_id])
        if first:
            yield from pause_between_looks(len(first), delay)
            second = sweep.misplaced(first)
            self.disproved = {id_: proof for id_, proof in second.items() if proof == first[id_]}

    def preview(self, refs: Sequence[LinkRef]) -> Changed:
        """Predicts the outcomes of a change. Changes and locks nothing."""
        changed = Changed()
        valid = list(_without_invalid(refs, changed))
        for ref, answer in look_at_jobs(self.database, self.queue, valid):
            if answer.state is JobState.WAITING and self._puts_aside:
                changed.waiting.append(ref)
                continue
            outcome = outcome_of(answer)
            if answer.state is JobState.WAITING and ref.job_id in (self.disproved or ()):
                outcome = Outcome.REPLACED_STALE
            changed.outcomes.append(LinkOutcome(ref, outcome, why_not_queued(answer)))
        queued = [item.ref for item in changed.outcomes if item.outcome.succeeded]
        if self.options.reset_circuit:
            ids = {ref.repository_id for ref in queued}
            changed.circuits_reset = circuits_to_reset(self.database, ids)
        if self.action is Action.RESYNC:
            changed.deliveries = count_deliveries(self.database, queued, path=self.options.path)
        return changed


def _without_invalid(refs: Iterable[LinkRef], changed: Changed) -> Iterator[LinkRef]:
    """Yields the links with a valid job id, and records the others as not queued."""
    for ref in refs:
        if ref.has_valid_job_id:
            yield ref
        else:
            message = invalid_job_id(ref).message
            changed.outcomes.append(LinkOutcome(ref, Outcome.NOT_QUEUED, message))
