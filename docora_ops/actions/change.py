"""Changes links: claims them in Postgres and queues their jobs, or does neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from docora_ops.actions.drift import Suspects, pause_between_looks
from docora_ops.actions.link_jobs import invalid_job_id, job_state, look_at_jobs
from docora_ops.database import Database
from docora_ops.database.circuits import circuits_to_reset, reset_circuits
from docora_ops.database.claims import Claim, Claiming, claim_links
from docora_ops.database.deliveries import clear_deliveries, count_deliveries
from docora_ops.database.link_rows import read_link
from docora_ops.errors import LinkError, LinkLockedError, PostgresError, StatementTimeoutError
from docora_ops.jobs import JobState
from docora_ops.links import Action, LinkRef, LinkStatus, Outcome
from docora_ops.operations import NO_OPTIONS, ChangeOptions
from docora_ops.queue import Answer, Command, LinkQueue, PushRefusedError, PushRequest

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

    later: the links that were put off until the next phase: see `Phase`.
    deliveries: the number of delivery records deleted or, with `--update`, marked as outdated.
    circuits_reset: ids of repositories whose circuits were reset.
    circuits_locked: ids of repositories whose circuits could not be reset, because other sessions
        have locked the rows.
    has_written: whether Redis has run the commands that `Changer.commands` returned.
    """

    outcomes: Sequence[LinkOutcome] = ()
    later: Sequence[LinkRef] = ()
    deliveries: int = 0
    circuits_reset: Set[str] = frozenset()
    circuits_locked: Set[str] = frozenset()
    has_written: bool = False


class Phase(Enum):
    """The phases of a change. Each phase changes the links that the previous phase has put off."""

    FIRST = auto()  # puts off links whose jobs wait, or whose rows are locked or gone
    SECOND = auto()  # puts off links whose rows are locked or gone
    LAST = auto()  # waits for locked rows, and puts off nothing


@dataclass(slots=True)
class Changer:
    """Changes batches of links, each batch in one transaction.

    Begins in the first `Phase`; `find_misplaced` begins the second, and `wait_for_rows` begins the
    last. Skips the first phase with BullMQ, where no job can be misplaced, and in a repair, which
    has already looked for misplaced jobs.

    commands: called with the links whose jobs are pushed; returns the Redis commands to run
        atomically with the push.
    waits_for_circuits: wait for locked rows when resetting circuits. Bulk operations skip locked
        rows, because one timeout per link could take days.
    disproved: by job id, the evidence that no worker would take a waiting job. `find_misplaced`
        sets it, unless the caller already has the evidence.
    """

    database: Database
    queue: LinkQueue
    action: Action
    claiming: Claiming
    options: ChangeOptions = NO_OPTIONS
    commands: Callable[[Sequence[LinkRef]], Sequence[Command]] = lambda _: ()
    waits_for_circuits: bool = False
    disproved: Mapping[str, str] = field(default_factory=dict)
    _phase: Phase = field(default=Phase.FIRST, init=False)
    _slow_links: int = field(default=0, init=False)
    _has_waited_in_vain: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.queue.can_push or self.action is Action.REPAIR:
            self._phase = Phase.SECOND

    def find_misplaced(self, refs: Sequence[LinkRef], *, delay: float) -> Iterator[Suspects]:
        """Finds misplaced jobs of these links, and begins the second phase, which replaces them.

        A misplaced job is marked as waiting, but no worker would ever take it. RQ leaves such jobs
        behind, and so does a Redis that has lost writes.

        Looks twice, because RQ moves a job in two steps, and between them, the job is in no place.
        Yields Suspects between the looks, and holds no lock. A push then replaces only jobs that
        are still misplaced. Raises RedisError.

        delay: seconds between the two looks.
        """
        if sweep := self.queue.sweep:
            first = sweep.misplaced([ref.job_id for ref in refs if ref.has_valid_job_id])
            if first:
                yield from pause_between_looks(len(first), delay)
                second = sweep.misplaced(first)
                self.disproved = {id_: why for id_, why in second.items() if why == first[id_]}
        self._phase = Phase.SECOND

    def wait_for_rows(self) -> None:
        """Begins the last phase, which waits for rows that other sessions have locked.

        After the first timeout, the phase no longer waits: ten thousand timeouts take a day.
        """
        self._phase = Phase.LAST

    def change_each(self, refs: Sequence[LinkRef]) -> Iterator[Changed]:
        """Changes links in one transaction or, if Postgres refuses because of a row, one by one.

        Yields after each transaction. Raises RedisError. Raises PostgresError, also if the server
        is too slow even when links are changed one by one.
        """
        try:
            changed = self.change(refs)
        except LinkError as error:
            if len(refs) > 1:
                for ref in refs:
                    yield from self.change_each([ref])
                return
            is_slow = isinstance(error, StatementTimeoutError)
            self._slow_links = self._slow_links + 1 if is_slow else 0
            if self._slow_links == _SLOW_LINKS_IN_A_ROW:
                raise PostgresError(error.message, hint=error.hint) from error
            changed = Changed([LinkOutcome(refs[0], Outcome.NOT_QUEUED, error.message)])
        yield changed

    def change(self, refs: Sequence[LinkRef]) -> Changed:
        """Changes links in one transaction, and returns their outcomes after the commit.

        Does not change links whose job is running or unreadable. Raises LinkError if Postgres
        refuses because of a row; PostgresError, RedisError. After an error, the links are unchanged
        unless Postgres has committed and its reply was lost. In either case, jobs may be queued.
        """
        created_at = self.queue.script.load()  # before rows are locked, as it has to connect
        todo, outcomes = _split_invalid(refs)
        later: list[LinkRef] = []
        changed = Changed()
        while todo:
            try:
                changed, todo = self._claim_and_push(todo, created_at), []
            except PushRefusedError as error:  # rolled back: again, without the refused links
                refused = self._settle(
                    {ref: error.answers[ref.job_id] for ref in todo if ref.job_id in error.answers}
                )
                outcomes += refused.outcomes
                later += refused.later
                todo = [ref for ref in todo if ref.job_id not in error.answers]
            except LinkLockedError:  # perhaps by the worker that runs the job
                self._has_waited_in_vain |= self._phase is Phase.LAST
                [ref, *others] = todo
                if others or job_state(self.database, self.queue, ref) is not JobState.RUNNING:
                    raise
                changed, todo = Changed([LinkOutcome(ref, Outcome.ALREADY_RUNNING)]), []
        self._slow_links = 0
        return replace(
            changed, outcomes=[*outcomes, *changed.outcomes], later=[*later, *changed.later]
        )

    def preview(self, refs: Sequence[LinkRef]) -> Changed:
        """Predicts the outcomes of a change. Changes and locks nothing."""
        todo, invalid = _split_invalid(refs)
        answers = dict(look_at_jobs(self.database, self.queue, todo))
        for ref, answer in answers.items():
            if answer.state is JobState.WAITING and ref.job_id in self.disproved:
                answers[ref] = replace(answer, state=JobState.STALE)  # as a push judges it
        settled = self._settle(answers)
        queued = [item.ref for item in settled.outcomes if item.outcome.is_put_to_work]
        to_reset, deliveries = set(), 0
        if self.options.reset_circuit:
            to_reset = circuits_to_reset(self.database, {ref.repository_id for ref in queued})
        if self.action is Action.RESYNC:
            deliveries = count_deliveries(self.database, queued, path=self.options.path)
        return Changed([*invalid, *settled.outcomes], settled.later, deliveries, to_reset)

    def _claim_and_push(self, refs: Sequence[LinkRef], created_at: float) -> Changed:
        """Claims links and pushes their jobs in one transaction, and returns the outcomes.

        If any job can't be pushed, rolls back and raises PushRefusedError.
        """
        database, options, is_last = self.database, self.options, self._phase is Phase.LAST
        wait = is_last and not self._has_waited_in_vain
        deliveries, to_reset, reset = 0, set[str](), set[str]()
        with database.transaction():
            locked = claim_links(database, refs, self.claiming, wait=wait)
            claimed = {ref: claim for ref, claim in locked.items() if not claim.refusal}
            if self.action is Action.RESYNC:
                update, path = options.update, options.path
                deliveries = clear_deliveries(database, list(claimed), update=update, path=path)
            if options.reset_circuit:
                to_reset = circuits_to_reset(database, {ref.repository_id for ref in claimed})
                reset = reset_circuits(database, to_reset, wait=self.waits_for_circuits)
            answers = self._push(claimed, created_at)
        outcomes, later = [], []
        for ref in refs:
            claim = locked.get(ref)
            if claim is None and is_last:
                outcomes.append(self._outcome_of_unlocked(ref))
            elif claim is None:
                later.append(ref)
            elif claim.refusal:
                outcomes.append(LinkOutcome(ref, claim.refusal))
            elif claim.has_failed:
                outcomes.append(LinkOutcome(ref, Outcome.NOT_QUEUED, CUT_OFF))
            else:
                outcomes.append(self._outcome_of(ref, answers[ref]))
        # If all jobs wait already, a pass of `schedule` changes nothing.
        has_written = any(
            answer.state is not JobState.WAITING or self.action is not Action.SCHEDULE
            for answer in answers.values()
        )
        return Changed(outcomes, later, deliveries, reset, to_reset - reset, has_written)

    def _push(self, claims: Mapping[LinkRef, Claim], created_at: float) -> dict[LinkRef, Answer]:
        requests = [
            PushRequest(
                ref.job_id,
                None if claim.has_failed else claim.payload,
                is_rescan=self.action.is_rescan(claim.status),
                was_failed=claim.status == LinkStatus.FAILED,
                disproved=self.disproved.get(ref.job_id, ""),
            )
            for ref, claim in claims.items()
        ]
        answers = self.queue.push(
            requests,
            created_at,
            # Claiming a stuck link counts a failure, which must not happen if its job waits.
            refuses_waiting=self._phase is Phase.FIRST or self.action is Action.REPAIR,
            front=self.options.front,
            exempts=self.options.now,
            changes_links=self.action is not Action.SCHEDULE,
            commands=self.commands(list(claims)),
        )
        return dict(zip(claims, answers, strict=True))

    def _settle(self, answers: Mapping[LinkRef, Answer]) -> Changed:
        """Returns the outcomes of links whose jobs were not pushed, and the links to put off."""
        outcomes, later = [], []
        for ref, answer in answers.items():
            if answer.state is JobState.WAITING and self._phase is Phase.FIRST:
                later.append(ref)
            else:
                outcomes.append(self._outcome_of(ref, answer))
        return Changed(outcomes, later)

    def _outcome_of(self, ref: LinkRef, answer: Answer) -> LinkOutcome:
        outcome = _OUTCOMES[answer.state]
        if not self.queue.can_push and answer.state.is_over:
            outcome = Outcome.RESET
        return LinkOutcome(ref, outcome, answer.error_message)

    def _outcome_of_unlocked(self, ref: LinkRef) -> LinkOutcome:
        """Returns the outcome of a link that is gone, or whose row another session has locked."""
        link = read_link(self.database, ref.app_id, ref.repository_id)
        if not link or link.ref.id != ref.id:
            return LinkOutcome(ref, Outcome.SKIPPED)
        if job_state(self.database, self.queue, ref) is JobState.RUNNING:
            return LinkOutcome(ref, Outcome.ALREADY_RUNNING)
        return LinkOutcome(ref, Outcome.NOT_QUEUED, "another session holds a lock on its row")


def _split_invalid(refs: Sequence[LinkRef]) -> tuple[list[LinkRef], list[LinkOutcome]]:
    """Returns the links with a valid job id, and the outcomes of links without one."""
    valid, invalid = [], []
    for ref in refs:
        if ref.has_valid_job_id:
            valid.append(ref)
        else:
            message = invalid_job_id(ref).message
            invalid.append(LinkOutcome(ref, Outcome.NOT_QUEUED, message))
    return valid, invalid
