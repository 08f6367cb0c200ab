"""Retry, resync or schedule of many links, batch by batch."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

from docora_ops.actions.bulk.audit_trail import RunTrail
from docora_ops.actions.bulk.batch import Batch, BatchHandler, Settled
from docora_ops.actions.bulk.execute import BatchWriter
from docora_ops.actions.bulk.plan import BatchPlanner
from docora_ops.actions.link_change import SECOND_LOOK_DELAY
from docora_ops.audit import ChangeNote
from docora_ops.bulk import BulkResult, Progress
from docora_ops.database import Database, Selection
from docora_ops.errors import ServerError
from docora_ops.links import Action, LinkFailure, LinkRef, Outcome, count_succeeded
from docora_ops.queue import LinkQueue, ProgressStore
from docora_ops.queue.progress import HEARTBEAT, new_operation_id

Item = TypeVar("Item")

BATCHES_IN_FLIGHT = 2
"""While Postgres works on the links of one batch, the jobs of the other are made and pushed."""


@dataclass(slots=True)
class Stop:
    """Set, by a signal handler say, to end a run before its next batch."""

    requested: bool = False


@dataclass(slots=True)
class BulkRun:
    """One bulk operation over a selection.

    `result()` says at any moment what has been done: so it does after a server was lost midway.
    """

    operation: Action
    database: Database
    queue: LinkQueue
    store: ProgressStore
    selection: Selection
    batch_size: int
    note: ChangeNote | None = None
    """For the audit trail."""
    trail: RunTrail | None = None
    """Of a change that this run is only a part of: what ends it is told by others."""
    stop: Stop = field(default_factory=Stop)
    on_progress: Callable[[int], None] = lambda _completed: None
    on_settled: Callable[[Sequence[Settled]], None] = lambda _settled: None
    operation_id: str | None = None
    cancelled: bool = False
    _deliveries_cleared: int = 0
    _counts: Counter[Outcome] = field(default_factory=Counter)
    _by_app: dict[str, Counter[Outcome]] = field(default_factory=dict)
    _failures: list[LinkFailure] = field(default_factory=list)
    _planner: BatchPlanner | None = None
    _reported_at: float = 0
    _reported_failures: int = 0
    _trail: RunTrail | None = None

    def __post_init__(self) -> None:
        if self.note is not None:
            self._trail = RunTrail(self.note, self.selection.total)

    def start(self) -> str:
        """Make the operation known in Redis; returns its id. Raises RedisError.

        A run need not be: what goes on each minute would crowd out the others on a dashboard.
        """
        self.operation_id = new_operation_id()
        if self._trail:
            self._trail.operation_id = self.operation_id
        self._report()
        return self.operation_id

    def run(self) -> BulkResult:
        """Queue every link of the selection; killed at any point, a new run finishes the rest.

        Raises PostgresError or RedisError when a server is lost; the batch in hand is undone.
        """
        databases = [self.database.sibling() for _ in range(BATCHES_IN_FLIGHT)]
        try:
            self._work(
                [
                    BatchWriter(
                        database,
                        self.queue,
                        self.operation,
                        self.selection.claim,
                        self._trail or self.trail,
                    )
                    for database in databases
                ]
            )
            self._end_trail()
        finally:
            for database in databases:
                database.close()
        return self.result()

    def break_off(self) -> None:
        """After a server was lost: tell what can still be told of that. Raises RedisError."""
        self.cancel()
        self._end_trail()

    def plan(self) -> BulkResult:
        """What `run` would do, link by link; changes nothing. Raises the same."""
        self._planner = BatchPlanner(self.database, self.queue, self.operation)
        self._work([self._planner])
        return self.result()

    def cancel(self) -> None:
        """Mark the operation cancelled, for all to see if it is known. Raises RedisError."""
        self.cancelled = True
        if self.operation_id is not None:
            self._report()
            self.store.cancel(self.operation_id)

    def result(self) -> BulkResult:
        """What has been done so far."""
        return BulkResult(
            operation=self.operation,
            operation_id=self.operation_id,
            total=self.selection.total,
            counts=dict(self._counts),
            by_app={
                count.app: dict(self._by_app.get(count.app.app_id, {}))
                for count in self.selection.by_app
            },
            failures=tuple(self._failures),
            cancelled=self._is_cut_short,
            open_circuits_left_out=self.selection.open_circuits_left_out,
            deliveries_cleared=self._deliveries_cleared,
            links=self._planner.planned if self._planner else None,
        )

    @property
    def _is_cut_short(self) -> bool:
        """Not where it was cancelled too late, with its last batches in hand."""
        return self.cancelled and self._counts.total() < self.selection.total

    def _work(self, handlers: Sequence[BatchHandler]) -> None:
        """All links in order, then once more, a moment later, those that were put off."""
        waiting = self.queue.read_waiting()
        put_off: list[tuple[LinkRef, int]] = []
        first = (Batch(refs, waiting) for refs in self._batches(self.selection.refs))
        for batch in self._handle(first, handlers):
            marks = batch.put_off
            put_off += [(ref, marks[ref.id]) for ref in batch.refs if ref.id in marks]
        if not put_off or self._must_stop():
            return
        self._pause(SECOND_LOOK_DELAY)
        self._report()  # and learn whether it has been cancelled meanwhile
        waiting = self.queue.read_waiting()
        final = (
            Batch([ref for ref, _ in pairs], waiting, {ref.id: mark for ref, mark in pairs})
            for pairs in self._batches(put_off)
        )
        for _ in self._handle(final, handlers):
            pass

    def _batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]

    def _handle(
        self, batches: Iterator[Batch], handlers: Sequence[BatchHandler]
    ) -> Iterator[Batch]:
        """Have each batch handled and counted, in order, as many at once as there are handlers.

        Ends early, after those in hand, when the run is to stop.
        """
        idle: SimpleQueue[BatchHandler] = SimpleQueue()
        for handler in handlers:
            idle.put(handler)

        def handle(batch: Batch) -> None:
            handler = idle.get()
            try:
                handler.handle(batch)
            finally:
                idle.put(handler)

        in_hand: deque[tuple[Batch, Future[None]]] = deque()
        before: Batch | None = None
        with ThreadPoolExecutor(len(handlers)) as pool:
            try:
                while in_hand or not self._must_stop():
                    while len(in_hand) < len(handlers) and not self._must_stop():
                        batch = next(batches, None)
                        if batch is None:
                            break
                        batch.after = before
                        in_hand.append((batch, pool.submit(handle, batch)))
                        before = batch
                    if not in_hand:
                        return
                    batch, future = in_hand[0]
                    # In slices: a signal that comes just before an endless wait is seen after it.
                    while not wait([future], timeout=0.2).done:
                        if time.monotonic() - self._reported_at > HEARTBEAT:
                            self._report()
                    future.result()
                    in_hand.popleft()
                    batch.after = None
                    self._count(batch)
                    self._report()
                    yield batch
            except ServerError:
                # What the batches in hand have settled is settled.
                wait(future for _, future in in_hand)
                for batch, _ in in_hand:
                    self._count(batch)
                raise

    def _must_stop(self) -> bool:
        if self.stop.requested and not self.cancelled:
            self.cancel()
        return self.cancelled

    def _pause(self, seconds: float) -> None:
        """Wait, holding no lock, unless told to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._must_stop():
            time.sleep(min(left, 0.1))

    def _count(self, batch: Batch) -> None:
        for item in batch.settled:
            self._counts[item.outcome] += 1
            self._by_app.setdefault(item.ref.app_id, Counter())[item.outcome] += 1
            error = self._failure(item)
            if error is not None:
                self._failures.append(LinkFailure(item.ref.job_id, error))
        self._deliveries_cleared += batch.deliveries_cleared
        self.on_settled(batch.settled)

    def _failure(self, item: Settled) -> str | None:
        # The others find what they want, a snapshot at work; a resync does not get its own.
        if item.outcome is Outcome.ALREADY_RUNNING and self.operation is Action.RESYNC:
            return "its snapshot is running; resync it again when that has ended"
        return item.error

    def _end_trail(self) -> None:
        """Say in the audit trail how the run has ended, if it has begun and that is not said."""
        if self._trail is None or not self._trail.begun or self._trail.ended:
            return
        if self.operation_id is not None:
            self._report(last=True)
            return
        self.store.record(self._trail.end(self._counts, cancelled=self._is_cut_short))
        self._trail.ended = True

    def _report(self, *, last: bool = False) -> None:
        """Tell everybody how far the run is, and the audit trail at the start and at the end."""
        completed = self._counts.total()
        last = last or completed >= self.selection.total
        audit = None
        if self._trail and not self._trail.begun:
            audit = self._trail.start()
        elif self._trail and last and not self._trail.ended:
            audit = self._trail.end(self._counts, cancelled=self._is_cut_short)
        self._reported_at = time.monotonic()
        self.on_progress(completed)
        if self.operation_id is None:
            return
        was_cancelled = self.store.write(
            Progress(
                operation_id=self.operation_id,
                total=self.selection.total,
                completed=completed,
                succeeded=count_succeeded(self._counts),
                failed=self._counts[Outcome.FAILED],
                cancelled=self.cancelled,
            ),
            self._failures,
            since=self._reported_failures,
            audit=audit,
        )
        if self._trail and audit:
            self._trail.ended = self._trail.begun
            self._trail.begun = True
        self._reported_failures = len(self._failures)
        self.cancelled = self.cancelled or was_cancelled
