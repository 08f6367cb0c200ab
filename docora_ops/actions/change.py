"""Changes links: claims them in Postgres and queues their jobs, or does neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from docora_ops.actions.drift import Suspects, pause_between_looks
from docora_ops.actions.link_jobs import invalid_job_id, look_at_jobs
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
_OUTCOMES = {
    JobState.NONE: Outcome.QUEUED,
    JobState.FINISHED: Outcome.QUEUED,
    JobState.STALE: Outcome.REPLACED_STALE,
    JobState.WAITING: Outcome.ALREADY_QUEUED,
    JobState.RUNNING: Outcome.ALREADY_RUNNING,
    JobState.UNREADABLE: Outcome.NOT_QUEUED,
}
"""The outcome of a link that qualifies, by the state of its job before the change."""


@dataclass(frozen=True, slots=True)
class LinkOutcome:
    """The outcome of one link."""

    ref: LinkRef
    outcome: Outcome
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """The result of one batch. Each of its links has an outcome, or was put off.

    later: the links that were put off. A link is put off if its job waits and
        `Changer.find_misplaced` has not run yet. Without `Changer.waits_for_rows`, a link is also
        put off if it is gone, or if another session has locked its row.
    deliveries: the number of delivery records deleted or, with `--update`, marked.
    circuits_reset: ids of repositories whose circuits were reset.
    circuits_locked: ids of repositories whose circuits could not be reset, because their rows are
        locked by other sessions.
    has_written: whether Redis has run the commands of the change.
    """

    outcomes: Sequence[LinkOutcome] = ()
    later: Sequence[LinkRef] = ()
    deliveries: int = 0
    circuits_reset: Set[str] = frozenset()
    circuits_locked: Set[str] = frozenset()
    has_written: bool = False


@dataclass(slots=True)
class Changer:
    """Changes batches of links, each batch in one transaction.

    commands: called with the links whose jobs are pushed; returns the Redis commands to run
        atomically with the push.
    waits_for_circuits: wait for rows of circuits that other sessions have locked. Bulk operations
        skip them, because one timeout per link could take days.
    waits_for_rows: wait for rows of links that other sessions have locked, instead of skipping
        them. Stops waiting after the first timeout, because ten thousand timeouts take a day.
    disproved: by job id, the evidence that no worker would take a waiting job. None until
        `find_misplaced` has run.
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

        Does not change links whose job is running or unreadable. Raises LinkError if Postgres
        refuses because of a row; PostgresError, RedisError. After an error, no link is changed.
        """
        created_at = self.queue.script.load()  # before rows are locked, as it has to connect
        todo, outcomes = _split_invalid(refs)
        later: list[LinkRef] = []
        changed = Changed()
        while todo:  # again without the links whose jobs can't be pushed, if there are any
            try:
                changed = self._claim_and_push(todo, created_at)
            except LinkLockedError:
                self._has_waited_in_vain |= self.waits_for_rows
                if len(todo) > 1 or not self._is_running(todo[0]):
                    raise
                changed = Changed([LinkOutcome(todo[0], Outcome.ALREADY_RUNNING)])
            outcomes += changed.outcomes
            later += changed.later
            settled = {item.ref for item in changed.outcomes}.union(changed.later)
            todo = [ref for ref in todo if ref not in settled]
        self._slow_links = 0
        return replace(changed, outcomes=outcomes, later=later)

    def preview(self, refs: Sequence[LinkRef]) -> Changed:
        """Predicts the outcomes of a change. Changes and locks nothing."""
        todo, invalid = _split_invalid(refs)
        answers = dict(look_at_jobs(self.database, self.queue, todo))
        for ref, answer in answers.items():
            if answer.state is JobState.WAITING and ref.job_id in (self.disproved or ()):
                answers[ref] = replace(answer, state=JobState.STALE)  # as a push judges it
        changed = self._settle(answers)
        queued = [item.ref for item in changed.outcomes if item.outcome.succeeded]
        to_reset, deliveries = set(), 0
        if self.options.reset_circuit:
            to_reset = circuits_to_reset(self.database, {ref.repository_id for ref in queued})
        if self.action is Action.RESYNC:
            deliveries = count_deliveries(self.database, queued, path=self.options.path)
        return Changed([*invalid, *changed.outcomes], changed.later, deliveries, to_reset)

    def find_misplaced(self, refs: Sequence[LinkRef], *, delay: float) -> Iterator[Suspects]:
        """Finds misplaced jobs: they are marked as waiting, but no worker would ever take them.

        RQ leaves misplaced jobs behind, and so does a Redis that has lost writes. Looks twice,
        because RQ moves a job in two steps, between which the job is in no place. Yields Suspects
        between the looks, and holds no lock. Puts the jobs that both looks found misplaced
        into `disproved`. Each push looks at these jobs again, and replaces those still misplaced.
        Raises RedisError.

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

    def _claim_and_push(self, refs: Sequence[LinkRef], created_at: float) -> Changed:
        """Changes links in one transaction. After the commit, returns what has become of them.

        If any jobs can't be pushed, rolls back, and returns only what becomes of these jobs' links.
        """
        wait = self.waits_for_rows and not self._has_waited_in_vain
        with self.database.transaction():
            locked = claim_links(self.database, [ref.id for ref in refs], self.claiming, wait=wait)
            claims = {claim.id: claim for claim in locked}
            # In the order of `refs`. A link with NOT_QUEUED has just become `failed`.
            to_push = {
                ref: claims[ref.id]
                for ref in refs
                if ref.id in claims and claims[ref.id].outcome in {None, Outcome.NOT_QUEUED}
            }
            changed = self._change_rest(list(to_push))
            answers = self._push(to_push, created_at)
            left = {ref: answer for ref, answer in answers.items() if answer.is_left}
            if left:
                raise Rollback
        if left:
            return self._settle(left)
        outcomes, later = [], []
        for ref in refs:
            claim = claims.get(ref.id)
            if claim and claim.outcome:
                reason = CUT_OFF if claim.outcome is Outcome.NOT_QUEUED else None
                outcomes.append(LinkOutcome(ref, claim.outcome, reason))
            elif claim:
                outcomes.append(self._outcome_of(ref, answers[ref]))
            elif self.waits_for_rows:
                outcomes.append(self._outcome_of_unclaimed(ref))
            else:
                later.append(ref)
        # If all jobs wait already, a pass of `schedule` changes nothing.
        has_written = any(
            answer.state is not JobState.WAITING or self.action is not Action.SCHEDULE
            for answer in answers.values()
        )
        return replace(changed, outcomes=outcomes, later=later, has_written=has_written)

    def _change_rest(self, refs: Sequence[LinkRef]) -> Changed:
        """Changes the delivery records and circuits of claimed links."""
        database, options = self.database, self.options
        deliveries, to_reset, reset = 0, set(), set()
        if self.action is Action.RESYNC:
            deliveries = clear_deliveries(database, refs, update=options.update, path=options.path)
        if options.reset_circuit:
            to_reset = circuits_to_reset(database, {ref.repository_id for ref in refs})
            reset = reset_circuits(database, to_reset, wait=self.waits_for_circuits)
        return Changed((), (), deliveries, reset, to_reset - reset)

    def _push(self, claims: Mapping[LinkRef, Claim], created_at: float) -> dict[LinkRef, Answer]:
        requests = [
            PushRequest(
                ref.job_id,
                None if claim.outcome else claim.payload,
                is_rescan=self.action.is_rescan(claim.status),
                was_failed=claim.status == LinkStatus.FAILED,
                disproved=(self.disproved or {}).get(ref.job_id, ""),
            )
            for ref, claim in claims.items()
        ]
        answers = self.queue.push(
            requests,
            created_at,
            # Claiming a stuck link counts a failure, which must not happen if its job waits.
            leaves_waiting=self._puts_off_waiting or self.action is Action.REPAIR,
            front=self.options.front,
            exempts=self.options.now,
            changes_links=self.action is not Action.SCHEDULE,
            commands=self.commands(list(claims)),
        )
        return dict(zip(claims, answers, strict=True))

    @property
    def _puts_off_waiting(self) -> bool:
        """Tells whether to put off links whose jobs wait: with RQ, before `find_misplaced` runs."""
        return self.disproved is None and self.queue.can_push

    def _settle(self, answers: Mapping[LinkRef, Answer]) -> Changed:
        """Returns what becomes of links that qualify, according to the answers about their jobs."""
        outcomes, later = [], []
        for ref, answer in answers.items():
            if answer.state is JobState.WAITING and self._puts_off_waiting:
                later.append(ref)
            else:
                outcomes.append(self._outcome_of(ref, answer))
        return Changed(outcomes, later)

    def _outcome_of(self, ref: LinkRef, answer: Answer) -> LinkOutcome:
        outcome = _OUTCOMES[answer.state]
        if not self.queue.can_push and answer.state.is_over:
            outcome = Outcome.RESET
        return LinkOutcome(ref, outcome, answer.error_message)

    def _outcome_of_unclaimed(self, ref: LinkRef) -> LinkOutcome:
        """Returns the outcome of a link that is gone, or whose row is locked."""
        link = read_link(self.database, ref.app_id, ref.repository_id)
        if not link or link.ref.id != ref.id:
            return LinkOutcome(ref, Outcome.SKIPPED)
        if self._is_running(ref):
            return LinkOutcome(ref, Outcome.ALREADY_RUNNING)
        return LinkOutcome(ref, Outcome.NOT_QUEUED, "another session holds a lock on its row")

    def _is_running(self, ref: LinkRef) -> bool:
        """Tells whether the link's job is running. The worker may then have locked the row."""
        [answer] = self.queue.look([ref.job_id])
        return answer.state is JobState.RUNNING


def _split_invalid(refs: Sequence[LinkRef]) -> tuple[list[LinkRef], list[LinkOutcome]]:
    """Returns the links with a valid job id, and the outcomes of the others."""
    valid, invalid = [], []
    for ref in refs:
        if ref.has_valid_job_id:
            valid.append(ref)
        else:
            message = invalid_job_id(ref).message
            invalid.append(LinkOutcome(ref, Outcome.NOT_QUEUED, message))
    return valid, invalid
