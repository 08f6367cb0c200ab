"""A bulk operation that queues a link only when another one has its result."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace

from docora_ops.actions.batch import Batch
from docora_ops.actions.bulk_run import BulkRun, BulkStep
from docora_ops.actions.following import Feed
from docora_ops.bulk import BulkWait
from docora_ops.links import LinkRef
from docora_ops.operations import StoppedBy

_FEWEST = 2  # links in flight at the start, and at least: an app that is down must leave one slot
_REPORT = 1  # seconds after which an idle run looks whether it was cancelled


class Pace:
    """Hands out links so that at most `limit` are queued and have no result.

    Each of them takes a slot. An app gets at most its share of the slots, so that an app that is
    down can't take all. The limit starts at 2, its minimum; `in_flight` is its maximum.
    """

    def __init__(
        self, refs: Iterable[LinkRef], in_flight: int, *, no_slow_start: bool = False
    ) -> None:
        self._most = in_flight
        self._fewest = in_flight if no_slow_start else min(in_flight, _FEWEST)
        self.limit = self._fewest
        self._synced = 0  # links, when the limit was last set
        self._failed = 0  # links, when the results were last looked at
        self._left: dict[str, deque[LinkRef]] = {}
        self._turns: deque[str] = deque()  # apps with links left; the first one is next
        self._apps: dict[str, str] = {}  # of links in flight, by row id
        self._by_app: Counter[str] = Counter()
        self.add(refs)

    @property
    def has_left(self) -> bool:
        """Tells whether links are left."""
        return bool(self._left)

    def add(self, refs: Iterable[LinkRef]) -> None:
        """Adds links. Each is handed out after the links that its app has left."""
        for ref in refs:
            if ref.app_id not in self._left:
                self._left[ref.app_id] = deque()
                self._turns.append(ref.app_id)
            self._left[ref.app_id].append(ref)

    def adapt(self, wait: BulkWait) -> None:
        """Halves the limit for each new failure; doubles it after as many clean results."""
        if failures := wait.failed - self._failed:
            self.limit = max(self._fewest, self.limit >> failures)
            self._synced, self._failed = wait.synced, wait.failed
        elif wait.synced - self._synced >= self.limit:
            self.limit = min(self._most, self.limit * 2)
            self._synced = wait.synced

    def take(self) -> list[LinkRef]:
        """Takes links for all free slots: one of each app in turn, then a second one of each."""
        taken: list[LinkRef] = []
        passed = 0  # apps in a row that have no free slot
        while len(self._apps) < self.limit and passed < len(self._turns):
            app_id = self._turns[0]
            self._turns.rotate(-1)
            if self._by_app[app_id] >= max(1, self.limit // len(self._left)):
                passed += 1
                continue
            passed = 0
            ref = self._left[app_id].popleft()
            if not self._left[app_id]:
                del self._left[app_id]
                self._turns.pop()
            self._apps[ref.id] = app_id
            self._by_app[app_id] += 1
            taken.append(ref)
        return taken

    def release(self, ids: Iterable[str]) -> None:
        """Frees the slots of the links with these row ids."""
        for id_ in ids:
            if app_id := self._apps.pop(id_, None):
                self._by_app[app_id] -= 1


@dataclass
class PacedRun(BulkRun):
    """A bulk operation with at most `options.in_flight` queued links that have no result yet.

    Starts with few, unless `options.no_slow_start` is set: see `Pace.adapt`.
    Ends when all links have results or are gone, after `options.timeout` seconds, or when all links
    in flight have lost their jobs. Once more than `options.max_failures` snapshots have failed,
    stops queueing and awaits the links in flight.
    """

    _pace: Pace = field(init=False)
    _unclaimed: list[LinkRef] = field(default_factory=list)
    """Links whose rows were locked: they come last."""
    _is_last_round: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        most, refs = self.options.in_flight or 1, self.selection.refs
        self._pace = Pace(refs, most, no_slow_start=self.options.no_slow_start)

    def step(self, *, is_waiting: bool = False) -> BulkStep:
        """Returns what has been done so far, with the present limit."""
        return replace(super().step(is_waiting=is_waiting), limit=self._pace.limit)

    def _work(self) -> Generator[BulkStep]:
        """Queues links and follows them until all have results, or it has to stop."""
        following = self._following
        with closing(following.follow(self.options.timeout, is_paced=True)) as waits:
            for wait in waits:
                self._pace.adapt(wait)
                self._pace.release(following.ended)
                following.ended.clear()
                following.more = yield from self._feed()
                yield self.step()
        if self._left and not self._cancelled:
            is_lost = following.result().only_lost_left
            self._cancel(StoppedBy.LOST_JOBS if is_lost else StoppedBy.TIMEOUT)
            yield self.step()

    def _feed(self) -> Generator[BulkStep, None, Feed]:
        """Queues links for the free slots."""
        if self._waiting and not (self._pace.has_left or self._cancelled):
            yield from self._find_misplaced(self._waiting)
            self._pace.add(self._waiting)
            self._waiting = []
        if self._unclaimed and not self._pace.has_left:
            self._pace.add(self._unclaimed)
            self._unclaimed, self._is_last_round = [], True
        if self._cancelled or not self._pace.has_left:
            self._stay_known()
            return Feed.DONE
        wait, most = self._following.result(), self.options.max_failures
        if most and most.is_exceeded(wait.failed, wait.synced):
            self._cancel(StoppedBy.MAX_FAILURES)
            return Feed.DONE
        refs = self._pace.take()
        if not refs:
            if time.monotonic() - self._reported_at > _REPORT:
                self._report()
            return Feed.BLOCKED
        if self.options.front:
            refs.reverse()  # each job is pushed before the one that was pushed last
        if self._is_last_round:
            yield from self._handle_locked(refs)
        else:
            unclaimed = yield from self._handle(refs, self.batch_size)
            self._unclaimed += unclaimed
            self._pace.release(ref.id for ref in unclaimed)
        return Feed.MORE

    def _count(self, batch: Batch) -> None:
        super()._count(batch)
        self._pace.release(item.ref.id for item in batch.recorded if not item.outcome.succeeded)
        self._pace.release(ref.id for ref in batch.waiting)
