"""A bulk operation: retry, resync, schedule or repair of many links, batch by batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field

from docora_ops.actions.bulk.audit_entries import AuditEntries, interruption
from docora_ops.actions.bulk.execute import Batch, BatchExecution, LinkOutcome
from docora_ops.actions.failures import named_failures
from docora_ops.actions.following import Feed, Following
from docora_ops.bulk import BulkResult, Progress, Results, StoppedBy
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
from docora_ops.interrupts import Stop
from docora_ops.links import (
    Action,
    App,
    LinkFailure,
    LinkRef,
    Outcome,
    PlannedLink,
    count_succeeded,
)
from docora_ops.pages import batches
from docora_ops.queue import LinkQueue, ProgressStore
from docora_ops.queue.audit_stream import results_entry
from docora_ops.queue.progress import HEARTBEAT, new_operation_id


@dataclass
class BulkRun:
    """One action on the links of a selection.

    `result()` tells at any moment what has been done, also after a server was lost.
    """

    action: Action
    database: Database
    queue: LinkQueue
    store: ProgressStore
    selection: Selection
    batch_size: int
    audit: AuditEntries | None = None  # None: the change is not recorded
    front: bool = False
    reset_circuit: bool = False
    update: bool = False  # a resync marks the delivery records instead of deleting them
    stop: Stop = field(default_factory=Stop)
    on_progress: Callable[[int], None] = lambda _completed: None
    on_recorded: Callable[[Sequence[LinkOutcome]], None] = lambda _recorded: None
    disproved: Mapping[str, str] = field(default_factory=dict)
    """By job id, the evidence against the status of a waiting job, see `PushRequest`."""
    operation_id: str | None = None
    following: Following | None = None  # of the links whose snapshots are awaited
    cancelled: bool = False
    stopped_by: StoppedBy | None = None  # once it is cancelled
    cancelled_by: str | None = None  # the user of another command
    _planned: list[PlannedLink] | None = None  # of a dry run
    _execution: BatchExecution = field(init=False)
    _counts: Counter[Outcome] = field(default_factory=Counter)
    _by_app: dict[str, Counter[Outcome]] = field(default_factory=dict)
    _failures: list[LinkFailure] = field(default_factory=list)
    _deliveries_cleared: int = 0
    _circuits_reset: set[str] = field(default_factory=set)
    _circuits_held: set[str] = field(default_factory=set)
    _reported_at: float = 0
    _reported_failures: int = 0

    def start(self) -> str:
        """Makes the run an operation that all can see in Redis. Returns its id. Raises RedisError.

        Schedule, which runs each minute, does without: it would crowd out others on a dashboard.
        """
        self.operation_id = new_operation_id()
        if self.audit:
            self.audit.operation_id = self.operation_id
        self._report()
        return self.operation_id

    def run(self) -> BulkResult:
        """Queues the links. Killed at any point, a new run finishes the rest.

        Raises PostgresError or RedisError if a server is lost: unfinished batches are rolled back.
        """
        self.queue.prepare()
        self._begin()
        self._work()
        self._reset_held_circuits()
        self._end_audit()
        return self.result()

    def _begin(self) -> None:
        self._execution = BatchExecution(
            self.database,
            self.queue,
            self.action,
            self.selection.claim,
            self.audit,
            self.front,
            self.reset_circuit,
            self.operation_id,
            self.update,
            disproved=self.disproved,
        )

    def stay_known(self) -> Feed:
        """Keeps the operation from expiring while its links are awaited, and adds none.

        Does nothing if Redis can't be used: the results are in Postgres.
        """
        if time.monotonic() - self._reported_at > HEARTBEAT:
            with suppress(RedisError):
                self._report()
        return Feed.DONE

    @property
    def left(self) -> int:
        """Counts the links that have no outcome yet."""
        return self.selection.total - self._counts.total()

    def break_off(self) -> None:
        """Marks the run cancelled after a server was lost. Raises RedisError."""
        self.cancel(StoppedBy.LOST_SERVER)
        self._end_audit()
        self.record_results()

    def plan(self) -> BulkResult:
        """Finds what `run` would do, and changes nothing. Raises PostgresError, RedisError."""
        self._planned = []
        self._begin()
        self._work()
        return self.result()

    def cancel(self, reason: StoppedBy) -> None:
        """Ends the run before its next batch. Raises RedisError."""
        self.cancelled = True
        self.stopped_by = self.stopped_by or reason
        if self.operation_id is not None:
            self._report()
            with suppress(NotFoundError, OperationFinishedError):
                self.store.cancel(self.operation_id)

    def record_results(self) -> None:
        """Keeps the results of the snapshots with the operation, also in its audit entries.

        Does nothing if Redis was away at the last look. Raises RedisError.
        """
        results, following = self._results(), self.following
        if self.operation_id is None or following is None or results is None:
            return
        if following.watch.misses_redis:  # nobody waits for the end of its timeout
            return
        entry = None
        if self.audit:
            entry = results_entry(self.audit.change, self.operation_id, results)
        self.store.write_results(self.operation_id, results, entry)

    def _results(self) -> Results | None:
        found = self.following.result().results if self.following else None
        return found if found and any(astuple(found)) else None

    def result(self) -> BulkResult:
        """Returns what has been done so far."""
        return BulkResult(
            action=self.action,
            operation_id=self.operation_id,
            total=self.selection.total,
            counts=dict(self._counts),
            by_app={
                App(count.app_id, count.app_name): dict(self._by_app.get(count.app_id, {}))
                for count in self.selection.by_app
            },
            failures=tuple(self._failures),
            cancelled=self._is_cut_short,
            open_circuits_left_out=self.selection.open_circuits_left_out,
            deliveries_cleared=self._deliveries_cleared,
            update=self.update,
            circuits_reset=len(self._circuits_reset) if self.reset_circuit else None,
            circuits_held=len(self._circuits_held),
            left_to_operations=self.selection.left_to_operations,
            links=self._planned,
            stopped_by=self._reason,
            cancelled_by=self.cancelled_by if self._reason else None,
        )

    @property
    def _is_cut_short(self) -> bool:
        return self.cancelled and self.left > 0

    @property
    def _reason(self) -> StoppedBy | None:
        return self.stopped_by if self._is_cut_short else None

    def _work(self) -> None:
        """Handles all links in order, and at last those whose rows were locked."""
        refs = self.selection.refs
        if self.front and self._planned is None:
            refs = refs[::-1]  # each job is pushed before the one that was pushed last
        self._handle_locked(self._handle(refs))

    def _handle(self, refs: Sequence[LinkRef]) -> list[LinkRef]:
        """Handles and counts the links, batch by batch, until the run is to stop.

        Returns the links that are gone, or whose rows other sessions have locked.
        """
        unclaimed: list[LinkRef] = []
        for some in batches(refs, self.batch_size):
            if self._must_stop():
                break
            batch = Batch()
            try:
                if self._planned is None:
                    self._execution.execute(some, batch)
                else:
                    self._planned += self._execution.plan(some, batch)
            except LinkError:
                unclaimed += self._handle_one_by_one(some)
                continue
            except ServerError:
                self._count(batch, is_lost=True)
                raise
            self._count(batch)
            self._report()
            unclaimed += batch.unclaimed
        return unclaimed

    def _handle_one_by_one(self, refs: Sequence[LinkRef]) -> list[LinkRef]:
        """Handles links by themselves, one of which can't be queued. Returns those unclaimed."""
        batch_size, self.batch_size = self.batch_size, 1
        try:
            return self._handle(refs)
        finally:
            self.batch_size = batch_size

    def _handle_locked(self, refs: Sequence[LinkRef]) -> None:
        """Handles links that were unclaimed once more: all together, then waiting for each row."""
        for ref in self._handle(refs):
            if self._must_stop():
                break
            batch = Batch()
            try:
                self._execution.execute_locked(ref, batch)
            except ServerError:
                self._count(batch, is_lost=True)
                raise
            self._count(batch)
            self._report()

    def _must_stop(self) -> bool:
        reason = interruption(self.stop)
        if reason and not self.cancelled:
            self.cancel(reason)
        return self.cancelled

    def _count(self, batch: Batch, *, is_lost: bool = False) -> None:
        """Counts what the batch has recorded. `is_lost`: a server can't be asked for names."""
        failed: list[tuple[LinkRef, str]] = []
        self.on_recorded(batch.recorded)  # first: what follows asks servers that may be lost
        for item in batch.recorded:
            self._counts[item.outcome] += 1
            self._by_app.setdefault(item.ref.app_id, Counter())[item.outcome] += 1
            error = item.error_message
            if item.outcome is Outcome.ALREADY_RUNNING and self.action is Action.RESYNC:
                error = "its snapshot is running; resync it again when that has ended"
            if error is not None:
                failed.append((item.ref, error))
        if failed:
            self._failures += self._named(failed, is_lost=is_lost)
        self._deliveries_cleared += batch.deliveries_cleared
        self._circuits_reset |= batch.circuits_reset
        self._circuits_held |= batch.circuits_held
        unclaimed = [item.ref.id for item in batch.recorded if self._is_kept_late(item.outcome)]
        if unclaimed and self.operation_id and not is_lost:
            self.store.add_links(self.operation_id, unclaimed)

    def _is_kept_late(self, outcome: Outcome) -> bool:
        """Tells whether the link is followed by `wait`, and a push has not kept its row id."""
        if outcome is Outcome.ALREADY_RUNNING:
            return self.action is Action.RETRY
        return self.queue.is_docoras and outcome.succeeded

    def _named(self, failed: Sequence[tuple[LinkRef, str]], *, is_lost: bool) -> list[LinkFailure]:
        """Names the links if Postgres can be asked: a failure counts without names, too."""
        if not is_lost:
            with suppress(PostgresError):
                return named_failures(self.database, failed)
        return [
            LinkFailure(ref.job_id, ref.app_id, ref.repository_id, error) for ref, error in failed
        ]

    def _reset_held_circuits(self) -> None:
        """Resets the circuits whose rows other sessions held."""
        held = self._circuits_held - self._circuits_reset
        self._circuits_held = held
        if not held:
            return
        with suppress(LinkLockedError), self.database.transaction():
            self._circuits_reset |= reset_circuits(self.database, held)
            self._circuits_held = set()

    def _end_audit(self) -> None:
        # A repair, which has no operation, ends the entries itself after all its runs.
        if self.audit is None or self.action is Action.REPAIR:
            return
        if self.operation_id is None:
            self.audit.write_end(self.store, self._counts, self._reason)
        elif self.audit.has_begun and not self.audit.has_ended:
            self._report(is_last=True)

    def _report(self, *, is_last: bool = False) -> None:
        """Writes the progress and, at the start and the end, the audit entries."""
        completed = self._counts.total()
        self._reported_at = time.monotonic()
        self.on_progress(completed)
        if self.operation_id is None:
            return
        audit = self.audit
        is_last = is_last or completed >= self.selection.total
        entry = audit.start() if audit else None
        is_end = entry is None and audit is not None and is_last and not audit.has_ended
        if audit and is_end:
            entry = audit.end(self._counts, self._reason, self.cancelled_by)
        was_cancelled, cancelled_by = self.store.write(
            Progress(
                operation_id=self.operation_id,
                total=self.selection.total,
                completed=completed,
                put_to_work=count_succeeded(self._counts),
                not_queued=len(self._failures),
                cancelled=self.cancelled,
            ),
            self._failures,
            since=self._reported_failures,
            change=audit.change if audit and not audit.has_begun else None,
            stopped_by=self._reason,
            results=self._results(),
            audit=entry,
        )
        if audit:
            audit.has_begun = True
            audit.has_ended |= is_end
        self._reported_failures = len(self._failures)
        if was_cancelled and not self.cancelled:
            self.cancelled, self.stopped_by = True, StoppedBy.CANCELLED
            self.cancelled_by = cancelled_by
