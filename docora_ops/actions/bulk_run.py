"""A bulk operation: retry, resync or schedule of many links, batch by batch."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from os import urandom

from docora_ops.actions.batch import MISSED, AuditEntries, Batch, BatchExecution, BatchInFlight
from docora_ops.actions.docora import Docora
from docora_ops.actions.following import Following, keep_results
from docora_ops.actions.pair import require_pair
from docora_ops.actions.workers import count_workers, require_right_workers
from docora_ops.bulk import BulkResult, BulkWait, ChangeOptions, LeftToOperation, RunningOperation
from docora_ops.database import Database, Selection
from docora_ops.database.circuits import reset_circuits
from docora_ops.errors import (
    LinkError,
    LinkLockedError,
    NotFoundError,
    OperationFinishedError,
    PostgresError,
    RedisError,
    ServerError,
)
from docora_ops.links import (
    Action,
    App,
    AppCount,
    LinkFailure,
    LinkRef,
    Outcome,
    PlannedLink,
    batches,
    count_succeeded,
)
from docora_ops.operations import Change, Progress, StoppedBy
from docora_ops.queue.audit_stream import AuditEvent
from docora_ops.queue.bulk_progress import HEARTBEAT
from docora_ops.queue.operation_links import add_links, end_work, keep_at_work

LONGEST_FLIGHT = 0.8
"""Seconds after which no further batch is started before the next step."""

_KEEP = 5  # seconds after which the run shows again that it is at work

_BY_OTHERS = (Outcome.ALREADY_QUEUED, Outcome.ALREADY_RUNNING, Outcome.SKIPPED)
"""Outcomes of links that others had put to work before their turn came."""


@dataclass(frozen=True)
class BulkStep:
    """The progress of a bulk operation.

    chosen: the number of selected links of each app.
    by_app: the outcomes so far, by app. The mapping changes as the operation goes on.
    deliveries: for a resync, the number of delivery records of the links before the first change.
    wait: the results of the snapshots so far, if they are awaited.
    is_waiting: all links are handled, and only snapshots are awaited.
    limit: with `options.in_flight`, the number of snapshots that may be in flight now.
    """

    result: BulkResult
    chosen: Sequence[AppCount]
    by_app: Mapping[App, Mapping[Outcome, int]]
    deliveries: int = 0
    wait: BulkWait | None = None
    is_waiting: bool = False
    limit: int | None = None


@dataclass
class BulkRun:
    """One action on the links of a selection.

    batch_size: the number of links that one transaction locks and queues.
    running: other operations at work on the same links.
    deliveries: for a resync, the number of delivery records of the links.
    """

    docora: Docora
    action: Action
    selection: Selection
    change: Change
    options: ChangeOptions
    batch_size: int
    running: Sequence[RunningOperation]
    deliveries: int = 0
    _audit: AuditEntries = field(init=False)
    _following: Following = field(init=False)
    _execution: BatchExecution = field(init=False)
    _second_execution: BatchExecution = field(init=False)
    _operation_id: str | None = None
    _cancelled: bool = False
    _stopped_by: StoppedBy | None = None  # once it is cancelled
    _cancelled_by: str | None = None  # the user of another command
    _planned: list[PlannedLink] | None = None  # of a dry run
    _counts: Counter[Outcome] = field(default_factory=Counter)
    _by_app: dict[str, Counter[Outcome]] = field(default_factory=dict)
    _apps: dict[App, Mapping[Outcome, int]] = field(default_factory=dict)
    """The counts of `_by_app`, by app with its name."""
    _waiting: list[LinkRef] = field(default_factory=list)
    """Links whose jobs waited when their turn came: they come after the others."""
    _failures: list[LinkFailure] = field(default_factory=list)
    _circuits_reset: set[str] = field(default_factory=set)
    _circuits_held: set[str] = field(default_factory=set)
    _kept_at: float = 0
    _reported_at: float = 0
    _reported_failures: int = 0
    _reported_failed_links: int = 0

    def __post_init__(self) -> None:
        self._audit = AuditEntries(self.change, self.selection.total)
        self._following = Following(self.docora)
        for each in self.selection.by_app:
            counts = self._by_app[each.app_id] = Counter()
            self._apps[App(each.app_id, each.app_name)] = counts

    def run(self) -> Generator[BulkStep]:
        """Yields a step before the first change, and one after each batch.

        A person may be asked about the first step: closing the generator then changes nothing. If
        it is closed later, or killed at any point, a new run finishes the rest. With
        `options.wait`, also yields while the snapshots are awaited. Raises WrongBackendError,
        ServersMismatchedError, PostgresError, RedisError; unfinished batches are rolled back.
        """
        docora, total = self.docora, self.selection.total
        if self.options.dry_run or not total:
            require_right_workers(docora)
        else:
            docora.database.require_changes()
            self._following.watch.had_workers = count_workers(docora, to_change=True) > 0
        if total:
            require_pair(docora)
        if self.options.dry_run:
            self._planned = []
        yield self.step()
        self._execution = BatchExecution(
            docora.database,
            docora.queue,
            self.action,
            self.selection.claim,
            self._audit,
            self.options,
        )
        if self.options.dry_run:
            yield from self._work()
        elif total:
            with closing(Database(docora.settings)) as second:
                self._second_execution = replace(self._execution, database=second)
                yield from self._carry_out()

    def _carry_out(self) -> Generator[BulkStep]:
        options = self.options
        if self.action is not Action.SCHEDULE:  # each minute, it would crowd out others
            self._operation_id = f"bulk_{urandom(8).hex()}"
            for each in (self._audit, self._execution, self._second_execution):
                each.operation_id = self._operation_id
            self._report()
        stopped_by: StoppedBy | None = StoppedBy.INTERRUPTED
        has_redis = True
        try:
            yield self.step()
            yield from self._work()
            self._reset_held_circuits()
            self._report(is_last=True)
            yield self.step()
            if options.wait and not options.is_paced:
                yield self.step(is_waiting=True)
                for _ in self._following.follow(options.timeout):
                    self._stay_known()
                    yield self.step(is_waiting=True)
            stopped_by = None
        except ServerError as error:
            stopped_by, has_redis = StoppedBy.LOST_SERVER, not isinstance(error, RedisError)
            raise
        finally:
            with suppress(RedisError) if stopped_by else nullcontext():
                self._end(stopped_by, has_redis=has_redis)

    def _end(self, stopped_by: StoppedBy | None, *, has_redis: bool) -> None:
        """Ends the operation and its audit entries, and keeps the results of the snapshots."""
        if stopped_by and self._left and not self._cancelled:
            self._cancel(stopped_by)
        self._report(is_last=True)
        if self._operation_id and has_redis:
            with suppress(RedisError):  # it expires
                end_work(self.docora.redis, self._operation_id)
        found = self._following.result()
        # If Redis is down, its timeout has been waited for once already.
        has_redis &= not self._following.watch.misses_redis
        if self._operation_id and any(astuple(found.results)) and has_redis:
            keep_results(self.docora, self._operation_id, found, self.change)

    def _stay_known(self) -> None:
        """Keeps the operation from expiring while its links are awaited.

        Does nothing if Redis can't be used: the results are in Postgres.
        """
        if time.monotonic() - self._reported_at > HEARTBEAT:
            with suppress(RedisError):
                self._report()

    @property
    def _is_awaited(self) -> bool:
        return (self.options.wait or self.options.is_paced) and not self.options.dry_run

    @property
    def _left(self) -> int:
        return self.selection.total - self._counts.total()

    @property
    def _taken_over(self) -> int | None:
        is_paced_retry = self.options.is_paced and self.action is Action.RETRY
        return sum(self._counts[each] for each in _BY_OTHERS) if is_paced_retry else None

    def _cancel(self, reason: StoppedBy) -> None:
        """Ends the run before its next batch. Raises RedisError."""
        self._cancelled, self._stopped_by = True, reason
        if self._operation_id is not None:
            self._report()
            with suppress(NotFoundError, OperationFinishedError):
                self.docora.store.cancel(self._operation_id)

    def step(self, *, is_waiting: bool = False) -> BulkStep:
        """Returns what has been done so far."""
        options, counts, action = self.options, self._counts, self.action
        is_cut_short = self._cancelled and self._left > 0
        cleared = self._audit.deliveries_cleared if action is Action.RESYNC else None
        left_to = [LeftToOperation(*each) for each in self.selection.left_to_operations.items()]
        result = BulkResult(
            action=action,
            dry_run=options.dry_run,
            operation_id=self._operation_id,
            total=self.selection.total,
            completed=counts.total(),
            left=self._left,
            put_to_work=count_succeeded(counts),
            cancelled=is_cut_short,
            stopped_by=self._stopped_by if is_cut_short else None,
            cancelled_by=self._cancelled_by if is_cut_short else None,
            **{outcome.value: counts[outcome] for outcome in Outcome},
            deliveries_cleared=None if options.update else cleared,
            deliveries_marked=cleared if options.update else None,
            open_circuits_left_out=self.selection.open_circuits_left_out,
            circuits_reset=len(self._circuits_reset) if options.reset_circuit else None,
            circuits_held=len(self._circuits_held) if options.reset_circuit else None,
            in_flight=options.in_flight if options.is_paced else None,
            taken_over=self._taken_over,
            left_to_operations=left_to if action is Action.SCHEDULE else None,
            running_operations=self.running,
            failures=self._failures,
            planned_links=self._planned,
        )
        wait = self._following.result() if self._is_awaited else None
        return BulkStep(
            result, self.selection.by_app, self._apps, self.deliveries, wait, is_waiting
        )

    def _work(self) -> Generator[BulkStep]:
        """Handles all links in order, then those with waiting jobs, then those with locked rows."""
        refs = self.selection.refs
        if self._planned is not None:
            yield from self._find_misplaced(refs)
            for some in batches(refs, self.batch_size):
                batch = Batch()
                for link in self._execution.plan(some, batch):
                    outcome = self._counted(link.outcome)
                    missed = {"error_message": MISSED} if outcome != link.outcome else {}
                    self._planned.append(replace(link, outcome=outcome, **missed))
                self._count(batch)
                yield self.step()
            return
        if self.options.front:
            refs = refs[::-1]  # each job is pushed before the one that was pushed last
        unclaimed = yield from self._handle(refs, self.batch_size)
        yield from self._find_misplaced(self._waiting)
        unclaimed += yield from self._handle(self._waiting, self.batch_size)
        yield from self._handle_locked(unclaimed)

    def _find_misplaced(self, refs: Sequence[LinkRef]) -> Generator[BulkStep]:
        """Finds the waiting jobs that the next batches have to replace."""
        execution, delay = self._execution, self.docora.settings.drift_grace
        for _ in execution.find_misplaced(refs, delay=delay):
            if self._planned is None:
                self._report()  # it may have been cancelled
            yield self.step()
            if self._cancelled:
                break
        if self._planned is None:
            self._second_execution.misplaced = execution.misplaced

    def _handle(
        self, refs: Sequence[LinkRef], batch_size: int
    ) -> Generator[BulkStep, None, list[LinkRef]]:
        """Handles and counts the links, batch by batch, until the run is cancelled.

        Returns the links that are gone, or whose rows other sessions have locked.
        """
        todo = deque(batches(refs, batch_size))
        unclaimed: list[LinkRef] = []
        while todo and not self._cancelled:
            try:
                refused = self._fly(todo, unclaimed)
            except ServerError:
                yield self.step()  # another batch may have been committed since the last step
                raise
            yield self.step()
            for some in refused:
                unclaimed += yield from self._handle(some, 1)
        return unclaimed

    def _fly(
        self, todo: deque[Sequence[LinkRef]], unclaimed: list[LinkRef]
    ) -> list[Sequence[LinkRef]]:
        """Executes batches from `todo` for `LONGEST_FLIGHT` seconds, two at a time in threads.

        Postgres claims one batch while Redis takes the jobs of the other. Adds links that were not
        claimed to `unclaimed`. Returns batches with a link that can't be queued. Raises
        PostgresError, RedisError when no batch is in flight any longer.
        """
        free = deque([self._execution])
        if len(todo) > 1 and self._can_connect_again:
            free.append(self._second_execution)
        in_flight = deque[BatchInFlight]()
        refused: list[Sequence[LinkRef]] = []
        lost: ServerError | None = None
        until = time.monotonic() + LONGEST_FLIGHT
        is_over = False
        try:
            while in_flight or (todo and not is_over):
                while todo and free and not is_over:
                    last = in_flight[-1] if in_flight else None
                    in_flight.append(BatchInFlight(free.popleft(), todo.popleft(), after=last))
                ended = in_flight.popleft()
                free.appendleft(ended.execution)
                try:
                    batch = ended.result()
                    unclaimed += batch.unclaimed
                    self._count(batch)
                except LinkError:
                    refused.append(ended.refs)
                except ServerError as error:
                    lost = lost or error
                is_over = bool(lost) or self._cancelled or time.monotonic() > until
        finally:  # after a bug or an interrupt, nobody else may use their connections yet
            for ended in in_flight:
                with suppress(LinkError, ServerError):
                    self._count(ended.result())
        if lost:
            raise lost
        return refused

    @cached_property
    def _can_connect_again(self) -> bool:
        """Tells whether Postgres, or its pool, has a second connection for this run."""
        with suppress(PostgresError), self._second_execution.database.snapshot():
            return True
        return False

    def _handle_locked(self, refs: Sequence[LinkRef]) -> Generator[BulkStep]:
        """Handles unclaimed links again: in batches, then one by one, waiting for each row."""
        unclaimed = yield from self._handle(refs, self.batch_size)
        for ref in unclaimed:
            if self._cancelled:
                break
            batch = Batch()
            self._execution.execute_locked(ref, batch)
            self._count(batch)
            yield self.step()

    def _count(self, batch: Batch) -> None:
        """Counts and reports what the batch has recorded."""
        for item in batch.recorded:
            outcome = self._counted(item.outcome)
            self._counts[outcome] += 1
            self._by_app.setdefault(item.ref.app_id, Counter())[outcome] += 1
            # A resync does not wait for a snapshot that was running before: it counts as missed.
            if self._is_awaited and (item.outcome.succeeded or self.action is not Action.RESYNC):
                self._following.add(item.ref, item.outcome)
        self._waiting += batch.waiting
        self._failures += batch.failures
        self._audit.deliveries_cleared += batch.deliveries_cleared
        self._circuits_reset |= batch.circuits_reset
        self._circuits_held |= batch.circuits_held
        # Links that `wait` follows, and whose row ids no push has kept.
        is_docoras = self.docora.queue.is_docoras
        late = [
            item.ref.id
            for item in batch.recorded
            if (item.outcome.succeeded and is_docoras)
            or (item.outcome is Outcome.ALREADY_RUNNING and self.action is Action.RETRY)
        ]
        if late and self._operation_id:
            add_links(self.docora.redis, self._operation_id, late)
        self._report()

    def _counted(self, outcome: Outcome) -> Outcome:
        """Returns the outcome to count: a running snapshot keeps a resync from being queued."""
        is_missed = outcome is Outcome.ALREADY_RUNNING and self.action is Action.RESYNC
        return Outcome.NOT_QUEUED if is_missed else outcome

    def _reset_held_circuits(self) -> None:
        """Resets the circuits whose rows other sessions held."""
        self._circuits_held -= self._circuits_reset
        if self._circuits_held:
            with suppress(LinkLockedError), self.docora.database.transaction():
                self._circuits_reset |= reset_circuits(self.docora.database, self._circuits_held)
                self._circuits_held = set()

    def _report(self, *, is_last: bool = False) -> None:
        """Writes the progress and, at the start and the end, the audit entries.

        Without an operation id, writes only the audit entry for the end.
        """
        self._reported_at = time.monotonic()
        reason = self._stopped_by if self._left else None
        if self._operation_id is None:
            if is_last:
                self._audit.write_end(self.docora.redis, self._counts, reason)
            return
        if is_last and self._audit.has_ended:
            return
        audit, entry = self._audit, self._audit.start()
        is_end = entry is None and not audit.has_ended and (is_last or not self._left)
        by = self._cancelled_by if reason else None
        if is_end:
            entry = audit.entry(AuditEvent.ENDED, self._counts, reason, by)
        found = self._following.result()
        results, failed_again = found.results, len(found.failed_links)
        was_cancelled, cancelled_by = self.docora.store.write(
            Progress(
                operation_id=self._operation_id,
                total=self.selection.total,
                completed=self._counts.total(),
                put_to_work=count_succeeded(self._counts),
                not_queued=len(self._failures),
                cancelled=self._cancelled,
                taken_over=self._taken_over or 0,
            ),
            self._failures,
            since=self._reported_failures,
            change=None if audit.has_begun else self.change,
            stopped_by=reason,
            cancelled_by=by,
            results=results if any(astuple(results)) else None,
            failed_links=found.failed_links if failed_again > self._reported_failed_links else (),
            audit=entry,
        )
        audit.has_begun = True
        audit.has_ended |= is_end
        self._reported_failures = len(self._failures)
        self._reported_failed_links = failed_again
        if was_cancelled and not self._cancelled:
            self._cancelled, self._stopped_by = True, StoppedBy.CANCELLED
            self._cancelled_by = cancelled_by
        if not (self._cancelled or is_last) and time.monotonic() - self._kept_at > _KEEP:
            self._kept_at = time.monotonic()
            ids = (ref.id for ref in self.selection.refs)
            keep_at_work(self.docora.redis, self._operation_id, ids)
