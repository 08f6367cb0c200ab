"""The heart: changes links in the database and the queue together.

A batch of links is one transaction: their rows are locked, their jobs pushed, the rows updated. So
whoever is killed, and whenever, a link that was touched is never pending without a live job:

- before the push, nothing has happened;
- between push and commit, the row is unchanged and a job waits, which a worker runs whatever the
  status, and which the same command finds when it is run again;
- a worker that takes the job before the commit waits for the lock of the row.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from secrets import token_hex

from docora_ops.actions.docora import Docora
from docora_ops.actions.lookup import resolve_link
from docora_ops.database import links as rows
from docora_ops.errors import (
    DocoraOpsError,
    LinkError,
    NotFailedError,
    NotFoundError,
    RedisError,
    SnapshotRunningError,
    UnqueueableError,
)
from docora_ops.links import (
    LIVE_STATUSES,
    Action,
    Backend,
    Change,
    Deliveries,
    JobState,
    Link,
    LinkFilter,
    LinkStatus,
    Outcome,
    State,
    batches,
)
from docora_ops.queue import operations as record
from docora_ops.queue.backend import Found
from docora_ops.queue.operations import Operation, OperationState
from docora_ops.text import moment

BATCH = 1000
_SLOW = 0.5  # seconds: less than any lock timeout or statement timeout
_MOST_SLOW = 3
_RUNNING = "a snapshot is running: a resync would have no effect on it"
_SKIP_LOCKED = "FOR UPDATE OF l SKIP LOCKED"
_STATES = {
    JobState.NONE: State.QUEUED,
    JobState.FINISHED: State.QUEUED,
    JobState.STALE: State.REPLACED_STALE,
    JobState.WAITING: State.ALREADY_QUEUED,
    JobState.RUNNING: State.ALREADY_RUNNING,
    JobState.UNREADABLE: State.NOT_QUEUED,
}


@dataclass(frozen=True)
class Batch:
    """The outcomes of a batch, and where the operation stands after it."""

    operation: Operation
    outcomes: Sequence[Outcome]


def select_links(docora: Docora, which: LinkFilter, limit: int | None = None) -> list[str]:
    """Returns the row ids of at most `limit` links that match, round-robin across apps."""
    return rows.select_ids(docora.database, which, limit)


def new_operation(
    docora: Docora,
    action: str,
    target: str,
    *,
    reason: str | None = None,
    total: int = 0,
    is_bulk: bool = True,
) -> Operation:
    """Returns an operation that is about to begin.

    target: the links in words, such as `Acme Search ← octo/api`.
    """
    return Operation(
        operation_id=f"{'bulk' if is_bulk else 'op'}_{token_hex(8)}",
        action=action,
        user=docora.user,
        command=docora.command,
        target=target,
        reason=reason,
        total=total,
    )


def run_single(
    docora: Docora,
    change: Change,
    app: str,
    repository: str,
    *,
    reason: str | None = None,
    dry_run: bool = False,
) -> tuple[Outcome, Operation | None]:
    """Changes one link and records it. Returns the operation, too; None for a dry run.

    app, repository: ids or names, as in `resolve_link`.

    Raises as `resolve_link` and `change_link`.
    """
    with docora.database.transaction():
        link = resolve_link(docora.database, app, repository)
        outcome = change_link(docora, change, link, dry_run=dry_run)
    if dry_run:
        return outcome, None
    target = link.link_name
    operation = new_operation(docora, change.action, target, reason=reason, total=1, is_bulk=False)
    operation = operation.after([outcome])
    _record(docora, operation, [outcome])
    return outcome, operation


def run_bulk(
    docora: Docora,
    change: Change,
    ids: Sequence[str],
    operation: Operation,
    *,
    looked_at: datetime | None = None,
) -> Generator[Batch]:
    """Changes links and yields after each batch; the first one has no outcomes.

    Stops when somebody cancels the operation, and records it as cancelled if the caller closes the
    generator. An operation that can't be recorded goes on, with a notice.

    looked_at: as in `LinkQueue.push`.

    Raises PostgresError, RedisError, WrongPairError.
    """
    docora.require_pair()
    operation = replace(operation, total=len(ids))
    _record(docora, operation)
    yield Batch(operation, [])
    try:
        for outcomes in change_links(docora, change, ids, looked_at=looked_at):
            operation = operation.after(outcomes)
            is_cancelled = _record(docora, operation, outcomes)
            if is_cancelled and operation.state is OperationState.RUNNING:
                operation = operation.stopped()
                _record(docora, operation)
            yield Batch(operation, outcomes)
            if operation.state is not OperationState.RUNNING:
                break
    finally:  # an error, a signal, or the caller has closed the generator
        if operation.state is OperationState.RUNNING:
            _record(docora, operation.stopped())


def _record(docora: Docora, operation: Operation, outcomes: Sequence[Outcome] = ()) -> bool:
    """Records an operation, which goes on if that fails. Tells whether somebody cancelled it."""
    awaited = [outcome.id for outcome in outcomes if outcome.state.is_awaited]
    try:
        return record.save(docora.redis, operation, awaited)
    except RedisError as error:
        notice = f"The operation is not recorded: {error.message}."
        if notice not in docora.notices:
            docora.notices.append(notice)
        return False


def change_link(docora: Docora, change: Change, link: Link, *, dry_run: bool = False) -> Outcome:
    """Changes one link. Waits for the lock of its row.

    Raises NotFailedError if it is to be retried and is not failed, SnapshotRunningError if it is to
    be resynced while a snapshot is running, UnqueueableError, NotFoundError, PostgresError,
    RedisError, WrongPairError.
    """
    if not dry_run:
        docora.require_pair()
    outcomes = change_batch(docora, change, [link.id], dry_run=dry_run, lock="FOR UPDATE OF l")
    if not outcomes:
        current = rows.read_link(docora.database, link.app_id, link.repository_id)
        if current is None:
            raise NotFoundError(f"App-repository link not found: {link.link_name}")
        if change.action is Action.REPAIR:
            return Outcome(link.id, current, State.SKIPPED, f"its status is {current.status}")
        raise NotFailedError(
            f"Only failed entries can be retried: {link.link_name} is {current.status}",
            hint=f"how it is going: docora-ops show {link.words}"
            if current.status in LIVE_STATUSES
            else f"to send its files again: docora-ops resync {link.words}",
            details={"status": current.status},
        )
    [outcome] = outcomes
    if outcome.state is State.ALREADY_RUNNING and change.action is Action.RESYNC:
        raise SnapshotRunningError(
            f"{link.link_name}: {_RUNNING}",
            hint="try again when it has ended; docora-ops show says how it is going: "
            f"docora-ops show {link.words}",
        )
    if outcome.state is State.NOT_QUEUED:
        raise UnqueueableError(f"{link.link_name} can't be queued: {outcome.detail}")
    return outcome


def change_links(
    docora: Docora,
    change: Change,
    ids: Sequence[str],
    *,
    dry_run: bool = False,
    looked_at: datetime | None = None,
) -> Iterator[list[Outcome]]:
    """Changes many links, two batches at a time, and yields their outcomes.

    Tries links that another transaction had locked once more at the end. Links that can't be
    changed because of their row are `not_queued`; those that no longer qualify are `skipped`.

    ids: row ids.
    dry_run: write nothing; the outcomes are what the change would do.
    looked_at: as in `LinkQueue.push`.

    Raises PostgresError, RedisError.
    """
    missing: list[str] = []
    with docora.twin() as twin, ThreadPoolExecutor(1) as thread:

        def run(ids: Sequence[str]) -> Iterator[tuple[Sequence[str], list[Outcome]]]:
            for pair in batches(ids, 2 * BATCH):
                # While Postgres updates the rows of one batch, Redis takes the jobs of the other.
                # What one has done counts even if the other fails.
                first, second, failure = list[Outcome](), list[Outcome](), None
                options = (dry_run, looked_at)
                other = thread.submit(_change_each, twin, change, pair[BATCH:], second, *options)
                try:
                    _change_each(docora, change, pair[:BATCH], first, *options)
                except DocoraOpsError as error:
                    failure = error
                try:
                    other.result()
                except DocoraOpsError as error:
                    failure = failure or error
                outcomes = first + second
                seen = {outcome.id for outcome in outcomes}
                yield [id_ for id_ in pair if id_ not in seen and not failure], outcomes
                if failure:
                    raise failure

        for unchanged, outcomes in run(ids):
            missing += unchanged
            yield outcomes
        why = "its status has changed, or another transaction has locked it"
        for unchanged, outcomes in run(missing):
            yield outcomes + [Outcome(id_, None, State.SKIPPED, why) for id_ in unchanged]


def _change_each(
    docora: Docora,
    change: Change,
    ids: Sequence[str],
    outcomes: list[Outcome],
    dry_run: bool,
    looked_at: datetime | None,
) -> None:
    """Changes a batch; link by link if Postgres refuses the batch because of one of them.

    outcomes: the outcomes are added here, so that an error leaves those before it.
    """

    def run(ids: Sequence[str]) -> None:
        for outcome in change_batch(docora, change, ids, dry_run=dry_run, looked_at=looked_at):
            is_left_alone = outcome.state is State.ALREADY_RUNNING
            if is_left_alone and change.action is Action.RESYNC:  # it is not sent again
                outcomes.append(replace(outcome, state=State.NOT_QUEUED, detail=_RUNNING))
            else:
                outcomes.append(outcome)

    if not ids:
        return
    try:
        run(ids)
    except LinkError as error:
        if len(ids) == 1:
            outcomes.append(Outcome(ids[0], None, State.NOT_QUEUED, error.message))
            return
    else:
        return
    slow = 0  # links in a row that were refused only after a time limit
    for number, id_ in enumerate(ids):
        begun = time.monotonic()
        try:
            run([id_])
            slow = 0
        except LinkError as error:
            slow = slow + 1 if time.monotonic() - begun > _SLOW else 0
            # Not for their own sake: all others would wait as long.
            refused = ids[number:] if slow == _MOST_SLOW else [id_]
            outcomes += [Outcome(id_, None, State.NOT_QUEUED, error.message) for id_ in refused]
            if slow == _MOST_SLOW:
                return


def change_batch(
    docora: Docora,
    change: Change,
    ids: Sequence[str],
    *,
    dry_run: bool = False,
    lock: str = _SKIP_LOCKED,
    looked_at: datetime | None = None,
) -> list[Outcome]:
    """Changes the links with these row ids that qualify, in one transaction.

    Returns their outcomes, and none for the others. Raises PostgresError, RedisError.
    """
    database = docora.database
    which = change.which
    if change.closes_circuit:  # an earlier batch may have closed the circuit
        which = replace(which, open_circuit=None)
    with database.transaction():
        by_id = {
            link.id: link
            for link in rows.read_links(database, ids, which, lock="" if dry_run else lock)
        }
        links = [by_id[id_] for id_ in ids if id_ in by_id]  # Postgres returns them in any order
        outcomes = _push(docora, change, links, dry_run=dry_run, looked_at=looked_at)
        if not dry_run:
            _update(docora, change, outcomes)
    return outcomes


def _push(
    docora: Docora,
    change: Change,
    links: Sequence[Link],
    *,
    dry_run: bool,
    looked_at: datetime | None,
) -> list[Outcome]:
    """Queues the jobs of the links that have none; looks only, if nothing is to be written."""
    queue = docora.queue
    valid = [link for link in links if link.has_valid_job_id]
    # A link that has used up its tries gets no job. Its killed job must not run again, either.
    given_up = {
        link.id
        for link in valid
        if change.counts_failure
        and link.status == LinkStatus.SCANNING
        and link.retry_count + 1 >= docora.settings.max_retry_attempts
    }
    to_push = [link for link in valid if link.id not in given_up and not dry_run]
    to_look = [link for link in valid if link.id in given_up or dry_run]
    found: dict[str, Found] = {}
    if to_push:
        jobs = queue.push(to_push, change.is_rescan, looked_at)
        found |= zip((link.id for link in to_push), jobs, strict=True)
    if to_look:
        jobs = queue.look([link.job_id for link in to_look])
        found |= zip((link.id for link in to_look), jobs, strict=True)
    unqueueable = Found(JobState.UNREADABLE, "its ids can't form the id of a job")
    outcomes = []
    for link in links:
        job = found.get(link.id, unqueueable)
        state = _STATES[job.state]
        if link.id in given_up and not job.state.is_live and state is not State.NOT_QUEUED:
            state = State.GIVEN_UP
        elif state in {State.QUEUED, State.REPLACED_STALE} and queue.backend is Backend.BULLMQ:
            state = State.RESET
        detail = job.detail
        if state is State.RESET and link.circuit_is_open and not change.closes_circuit:
            until = moment(link.circuit_open_until)
            detail = f"its circuit is open until {until}, and Docora's scheduler waits for that"
            detail += ": --reset-circuit closes it" if change.resets else ""
        outcomes.append(Outcome(link.id, link, state, detail))
    return outcomes


def _update(docora: Docora, change: Change, outcomes: Sequence[Outcome]) -> None:
    """Updates the rows of links whose job is waiting now."""
    database = docora.database
    waiting = [outcome for outcome in outcomes if outcome.state.is_put_to_work]
    ids = [outcome.id for outcome in waiting]
    if ids and change.resets:
        rows.reset_links(database, ids)
        if change.deliveries is not Deliveries.KEEP:
            rows.clear_deliveries(database, ids, change.deliveries)
        if change.closes_circuit:
            repositories = {outcome.link.repository_id for outcome in waiting if outcome.link}
            rows.close_circuits(database, repositories)
    if change.counts_failure:
        killed = [
            outcome.id
            for outcome in outcomes
            if outcome.link
            and outcome.link.status == LinkStatus.SCANNING
            and outcome.state in {State.QUEUED, State.REPLACED_STALE, State.RESET, State.GIVEN_UP}
        ]
        if killed:
            rows.count_failures(database, killed, docora.settings.max_retry_attempts)
