"""A bulk operation that queues a link only when another one has its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from docora_ops.actions.bulk.execute import Batch
from docora_ops.actions.bulk.pace import Pace
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.actions.following import Feed, Following
from docora_ops.bulk import BulkResult, MaxFailures, StoppedBy
from docora_ops.errors import RedisError
from docora_ops.links import LinkRef
from docora_ops.queue import PacedRuns
from docora_ops.waits import BulkWait

_REPORT = 1  # seconds after which an idle run looks whether it was cancelled
_KEEP = 5  # seconds after which the run shows again that it is under way


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
    on_step: Callable[[BulkWait], None] = lambda _wait: None
    on_stop: Callable[[], None] = lambda: None
    """Called when no further link is queued, though some are left."""
    _has_told_stop: bool = False
    _results_at_stop: tuple[int, int] | None = None  # all, and those that failed
    _pace: Pace = field(init=False)
    _unclaimed: list[LinkRef] = field(default_factory=list)
    """Links whose rows were locked: they come last."""
    _is_last_round: bool = False
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

    def _work(self) -> None:
        """Queues links and follows them until all have results, or it has to stop."""
        self._pace = Pace(self.selection.refs, self.in_flight)
        with closing(self.following.follow(self.timeout, is_paced=True)) as steps:
            for _ in steps:
                self._pace.release(self.following.ended)
                self.following.ended.clear()
                self.following.more = self._feed()
                self.on_step(self.following.result())
                if self.stop.requested:
                    break
        if self.left and not self._is_stopped():
            is_lost = self.following.result().only_lost_left
            self._end(StoppedBy.LOST_JOBS if is_lost else StoppedBy.TIMEOUT)

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

    def _feed(self) -> Feed:
        """Queues links for the free slots."""
        if self._is_stopped():
            return self.stay_known()
        if not self._pace.has_left and self._unclaimed:
            self._pace.add(self._unclaimed)
            self._unclaimed, self._is_last_round = [], True
        if not self._pace.has_left:
            return self.stay_known()
        wait = self.following.result()
        if self.max_failures and self.max_failures.is_exceeded(wait.failed, wait.synced):
            self._results_at_stop = (wait.failed + wait.synced, wait.failed)
            self._end(StoppedBy.MAX_FAILURES)
            return Feed.DONE
        refs = self._pace.take()
        if not refs:
            if time.monotonic() - self._reported_at > _REPORT:
                self._report()
            return Feed.BLOCKED
        if self.front:
            refs.reverse()  # each job is pushed before the one that was pushed last
        if self._is_last_round:
            self._handle_locked(refs)
        else:
            unclaimed = self._handle(refs)
            self._unclaimed += unclaimed
            self._pace.release(ref.id for ref in unclaimed)
        return Feed.MORE

    def _count(self, batch: Batch, *, is_lost: bool = False) -> None:
        super()._count(batch, is_lost=is_lost)
        self._pace.release(item.ref.id for item in batch.recorded if not item.outcome.succeeded)
