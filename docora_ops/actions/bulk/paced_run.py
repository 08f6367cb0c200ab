"""A bulk operation that queues a link only when another one has its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from docora_ops.actions.bulk.batch import Batch
from docora_ops.actions.bulk.pace import Pace
from docora_ops.actions.bulk.run import BatchHandler, BulkRun
from docora_ops.actions.waiting.follow import Feed, Following
from docora_ops.bulk import BulkResult, MaxFailures, StoppedBy
from docora_ops.errors import RedisError
from docora_ops.links import LinkRef
from docora_ops.pages import batches
from docora_ops.queue import PacedRuns, WaitingList
from docora_ops.settings import SECOND_LOOK_DELAY

_REPORT = 1  # seconds after which an idle run looks whether it was cancelled
_KEEP = 5  # seconds after which the run shows again that it is under way
_LIST_FRESH = 5  # seconds for which the waiting list need not be read again


@dataclass(kw_only=True)
class PacedRun(BulkRun):
    """A bulk operation with at most `in_flight` links that are queued and have no result yet.

    `following` follows the links that were queued: `on_recorded` must add them. Ends when all links
    have results or are gone, after `timeout` seconds, or when all links in flight have lost
    their jobs. When more snapshots than `max_failures` have failed, queues no further link and
    awaits the links in flight.
    """

    following: Following
    in_flight: int
    max_failures: MaxFailures | None = None
    timeout: float | None = None
    runs: PacedRuns | None = None  # makes the run known to `schedule`
    on_stop: Callable[[], None] = lambda: None
    """Called when no further link is queued, though some are left."""
    _has_told_stop: bool = False
    _results_at_stop: tuple[int, int] | None = None  # all, and those that failed
    _postponed: dict[LinkRef, str] = field(default_factory=dict)
    """Evidence of doubtful jobs in the first round."""
    _postponed_at: float = 0
    _evidence: dict[str, str] | None = None  # the same in the second round, by row id
    _waiting: WaitingList | None = None
    _waiting_read_at: float = 0
    _kept_at: float = 0

    def result(self) -> BulkResult:
        """Returns what has been done so far."""
        results, failed = self._results_at_stop or (None, None)
        return replace(
            super().result(),
            in_flight=self.in_flight,
            results_at_stop=results,
            failed_at_stop=failed,
        )

    def run(self) -> BulkResult:
        """Queues the links and follows them. Raises PostgresError, RedisError."""
        try:
            return super().run()
        finally:
            if self.runs and self.operation_id:
                with suppress(RedisError):  # it expires
                    self.runs.end(self.operation_id)

    def _report(self, *, is_last: bool = False) -> None:
        super()._report(is_last=is_last)
        is_due = time.monotonic() - self._kept_at > _KEEP
        if self.runs and self.operation_id and is_due and not self.cancelled:
            self._kept_at = time.monotonic()
            self.runs.keep(self.operation_id, (ref.id for ref in self.selection.refs))

    def _work(self, handlers: Sequence[BatchHandler]) -> None:
        """Queues links and follows them until all have results, or it has to stop."""
        pace = Pace(self.selection.refs, self.in_flight)
        self.following.on_ended = pace.release
        wait = self.following.run(self.timeout, partial(self._feed, pace, handlers), is_paced=True)
        if self.left and not self._is_stopped():
            self._end(StoppedBy.LOST_JOBS if wait.only_lost_left else StoppedBy.TIMEOUT)

    def _is_stopped(self) -> bool:
        """Tells whether the operation was cancelled or interrupted, or has ended itself."""
        if not self._must_stop():
            return False
        if self.left and not self._has_told_stop:
            self._has_told_stop = True
            self.on_stop()
        return True

    def _end(self, reason: StoppedBy) -> None:
        """Queues no further link. Others see the operation as cancelled."""
        self.cancel(reason)
        self._has_told_stop = True
        self.on_stop()

    def _feed(self, pace: Pace, handlers: Sequence[BatchHandler]) -> Feed:
        """Queues links for the free slots."""
        if self._is_stopped():
            return self.stay_known()
        self._begin_second_round(pace)
        if not (pace.has_left or self._postponed):
            return self.stay_known()
        wait = self.following.result()
        if self.max_failures and self.max_failures.is_exceeded(wait.failed, wait.synced):
            self._results_at_stop = (wait.failed + wait.synced, wait.failed)
            self._end(StoppedBy.MAX_FAILURES)
            return Feed.DONE
        if refs := pace.take():
            if self.front:
                refs.reverse()  # each job is pushed before the one that was pushed last
            waiting = self._read_waiting()
            some = (Batch(each, waiting, self._evidence) for each in batches(refs, self.batch_size))
            for batch in self._handle(some, handlers):
                self._release_unqueued(batch, pace)
            return Feed.MORE
        if time.monotonic() - self._reported_at > _REPORT:
            self._report()
        return Feed.MORE if self._postponed else Feed.BLOCKED

    def _begin_second_round(self, pace: Pace) -> None:
        """Hands out the postponed links once more, when all others were handed out."""
        is_due = time.monotonic() - self._postponed_at >= SECOND_LOOK_DELAY
        if self._postponed and not pace.has_left and is_due:
            self._evidence = {ref.id: evidence for ref, evidence in self._postponed.items()}
            pace.add(self._postponed)
            self._postponed = {}
            self._waiting = None  # a list that was read before the first look proves nothing

    def _release_unqueued(self, batch: Batch, pace: Pace) -> None:
        pace.release(batch.postponed)
        pace.release(item.ref.id for item in batch.recorded if not item.outcome.succeeded)
        if batch.postponed:
            refs = {ref.id: ref for ref in batch.refs}
            self._postponed |= {refs[id_]: each for id_, each in batch.postponed.items()}
            self._postponed_at = time.monotonic()

    def _read_waiting(self) -> WaitingList:
        """Returns the waiting list, which is not read for each link: it may be long."""
        now = time.monotonic()
        if self._waiting is None or now - self._waiting_read_at > _LIST_FRESH:
            self._waiting = self.queue.read_waiting()
            self._waiting_read_at = now
        return self._waiting
