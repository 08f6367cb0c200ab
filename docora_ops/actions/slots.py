"""Paces a bulk operation: hands out links as slots become free."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

from docora_ops.actions.change import LinkOutcome
from docora_ops.actions.snapshot_results import Following
from docora_ops.links import LinkRef, batches
from docora_ops.operations import BulkWait, ChangeOptions, StoppedBy

_FEWEST = 2  # initial and minimum limit: an app that is down must leave a slot for the others


class Slots:
    """Decides which links come next in a bulk operation with `in_flight`.

    At most `in_flight` links are in flight: queued, but without a result. Each of them takes a
    slot. The apps share the slots equally, so an app that is down leaves slots for other apps. If
    the share of an app shrinks, its links beyond the share no longer take a slot.

    limit: the number of slots. It starts at 2, its minimum, and is at most `in_flight`.
    """

    def __init__(self, following: Following, options: ChangeOptions) -> None:
        self._following, self._options = following, options
        self._most = options.in_flight or 0
        self.limit = self._fewest = min(self._most, _FEWEST)
        self._synced = self._failed = 0  # results when the limit was last changed
        self._left: dict[str, deque[LinkRef]] = {}
        self._turns: deque[str] = deque()  # apps with links left; the first one is next
        self._app_ids: dict[str, str] = {}  # of links in flight, by row id

    def batches(
        self, refs: Iterable[LinkRef], size: int
    ) -> Iterator[Sequence[LinkRef] | StoppedBy | None]:
        """Yields the links in batches of at most `size`, as slots become free.

        Yields None while no slot is free. If the operation has to stop, yields the reason and ends.
        """
        for ref in refs:
            if ref.app_id not in self._left:
                self._left[ref.app_id] = deque()
                self._turns.append(ref.app_id)
            self._left[ref.app_id].append(ref)
        following, limit = self._following, self._options.max_failures
        while self._left:
            wait = following.result()
            if limit and limit.is_exceeded(wait.failed, wait.synced):
                yield StoppedBy.MAX_FAILURES
                return
            if following.is_late:
                yield StoppedBy.TIMEOUT
                return
            if taken := self._take(wait):
                yield from batches(taken, size)
                continue  # links that were not queued have left their slots free
            if following.has_lost_all:
                yield StoppedBy.LOST_JOBS
                return
            for _ in following.look():
                yield None

    def free(self, outcomes: Iterable[LinkOutcome]) -> None:
        """Frees the slots of links that were not queued."""
        for item in outcomes:
            if not item.outcome.is_put_to_work:
                self._app_ids.pop(item.ref.id, None)

    def _take(self, wait: BulkWait) -> Sequence[LinkRef]:
        """Returns links for the free slots, round-robin across apps; none if no slot is free."""
        self._adapt(wait)
        unfinished = self._following.unfinished
        self._app_ids = {id_: self._app_ids[id_] for id_ in unfinished if id_ in self._app_ids}
        by_app = Counter(self._app_ids.values())
        taken: list[LinkRef] = []
        passed = 0  # consecutive apps without a free slot
        while passed < len(self._turns) and len(self._app_ids) < self._most:
            share = max(1, self.limit // len(self._left))
            # Passing over an app takes no slot, so slots are counted only once per link.
            if not passed and sum(min(count, share) for count in by_app.values()) >= self.limit:
                break
            app_id = self._turns[0]
            self._turns.rotate(-1)
            if by_app[app_id] >= share:
                passed += 1
                continue
            passed = 0
            ref = self._left[app_id].popleft()
            if not self._left[app_id]:
                del self._left[app_id]
                self._turns.pop()
            self._app_ids[ref.id] = app_id
            by_app[app_id] += 1
            taken.append(ref)
        # With --front, each job goes to the head of the queue: the first link is pushed last.
        return taken[::-1] if self._options.front else taken

    def _adapt(self, wait: BulkWait) -> None:
        """Halves the limit for each new failure.

        Doubles the limit once `limit` links in a row are synced.
        """
        if failures := wait.failed - self._failed:
            self.limit = max(self._fewest, self.limit >> failures)
            self._synced, self._failed = wait.synced, wait.failed
        elif wait.synced - self._synced >= self.limit:
            self.limit = min(self._most, self.limit * 2)
            self._synced = wait.synced
