"""Bulk operations: the heart in a loop, with progress, record and cancellation after each batch."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from docora_ops.actions.changes import change_link, change_links
from docora_ops.actions.docora import Docora
from docora_ops.database import links as rows
from docora_ops.errors import RedisError
from docora_ops.links import Change, Link, LinkFilter, Outcome, State
from docora_ops.queue import operations as record
from docora_ops.queue.operations import Failure, Operation, OperationState


@dataclass(frozen=True)
class Batch:
    """The outcomes of a batch, and where the operation stands after it."""

    operation: Operation
    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class Preview:
    """What a bulk operation is about to change.

    by_app: app id, app name and number of links of each app.
    deliveries: the number of delivery records of the links.
    """

    by_app: Sequence[tuple[str, str, int]]
    deliveries: int


def select_links(docora: Docora, which: LinkFilter, limit: int | None = None) -> list[str]:
    """Returns the row ids of at most `limit` links that match, round-robin across apps."""
    return rows.select_ids(docora.database, which, limit)


def preview(docora: Docora, ids: Sequence[str]) -> Preview:
    """Counts what is to be shown above a question. Raises PostgresError."""
    with docora.database.transaction():
        by_app = rows.count_by_app(docora.database, ids)
        return Preview(by_app, rows.count_deliveries(docora.database, ids))


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
        operation_id=record.new_id(is_bulk=is_bulk),
        action=action,
        user=docora.user,
        command=docora.command,
        target=target,
        reason=reason,
        total=total,
    )


def run_single(
    docora: Docora, change: Change, link: Link, *, reason: str | None = None, dry_run: bool = False
) -> tuple[Outcome, Operation | None]:
    """Changes one link and records it. Returns the operation, too; None for a dry run.

    Raises as `change_link`.
    """
    outcome = change_link(docora, change, link, dry_run=dry_run)
    if dry_run:
        return outcome, None
    operation = new_operation(
        docora, change.action, link.link_name, reason=reason, total=1, is_bulk=False
    )
    log = Log(docora, operation)
    log.step([outcome])
    log.end()
    return outcome, log.operation


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
    log = Log(docora, replace(operation, total=len(ids)))
    yield Batch(log.operation, [])
    try:
        for outcomes in change_links(docora, change, ids, looked_at=looked_at):
            log.step(outcomes)
            yield Batch(log.operation, outcomes)
            if log.operation.cancelled:
                break
    except BaseException:  # an error, a signal, or the caller has closed the generator
        if log.operation.completed < log.operation.total:
            log.operation = replace(log.operation, cancelled=True)
        log.end()
        raise
    log.end()
    yield Batch(log.operation, [])


class Log:
    """The record of one operation, which must not stop the operation."""

    def __init__(self, docora: Docora, operation: Operation) -> None:
        self.operation = operation
        self._docora = docora
        self._states: Counter[str] = Counter()
        self._is_recorded = True
        self._try(lambda: self._set(record.begin(docora.redis, self.operation)))

    def step(self, outcomes: Sequence[Outcome]) -> None:
        """Counts the outcomes, records them, and notes whether somebody has cancelled."""
        self._states.update(outcome.state.value for outcome in outcomes)
        failures = [
            Failure.of(outcome.link, outcome.detail)
            for outcome in outcomes
            if outcome.state is State.NOT_QUEUED
        ]
        before = self.operation
        self.operation = replace(
            before,
            completed=before.completed + len(outcomes),
            succeeded=before.succeeded + len(outcomes) - len(failures),
            failed=before.failed + len(failures),
            states=dict(self._states),
            failures=[*before.failures, *failures][: record.MOST_FAILURES],
        )
        awaited = [outcome.id for outcome in outcomes if outcome.state.is_awaited]

        def write() -> None:
            if record.step(self._docora.redis, self.operation, awaited):
                self.operation = replace(self.operation, cancelled=True)

        self._try(write)

    def end(self) -> None:
        """Records the end."""
        is_done = self.operation.completed >= self.operation.total
        state = OperationState.DONE if is_done else OperationState.CANCELLED
        self.operation = replace(self.operation, state=state)
        self._try(lambda: self._set(record.end(self._docora.redis, self.operation)))

    def _set(self, operation: Operation) -> None:
        self.operation = operation

    def _try(self, write: Callable[[], None]) -> None:
        if not self._is_recorded:
            return
        try:
            write()
        except RedisError as error:
            self._is_recorded = False
            self._docora.notices.append(f"The operation is not recorded: {error.message}.")
