"""Decides which links of a bulk operation come next: all in turn, or paced by results."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

from docora_ops.links import LinkRef, batches
from docora_ops.operations import BulkWait

_FEWEST = 2  # initial and minimum limit: an app that is down must leave a slot for the others


class Turns:
    """Hands out links so that at most `limit` of them are in flight: queued, without a result.

    Each link in flight takes a slot. An app gets at most its share of the slots, so that an app
    that is down can't take all. The limit starts at its minimum of 2; its maximum is `in_flight`.

    in_flight: None means no limit: links are handed out in their order.
    newest_first: jobs are pushed to the head of the queue, which reverses their order.
    """

    def __init__(self, in_flight: int | None, batch_size: int, *, newest_first: bool) -> None:
        self._most = in_flight or 0
        self._fewest = min(self._most, _FEWEST)
        self.limit = self._fewest if in_flight else None
        self._batch_size, self._newest_first = batch_size, newest_first
        self._synced = 0  # synced links when the limit was last changed
        self._failed = 0  # failed links when `adapt` was last called
        self._left: dict[str, deque[LinkRef]] = {}
        self._turns: deque[str] = deque()  # apps with links left; the first one is next
        self._apps: dict[str, str] = {}  # app ids of links in flight, by row id
        self._by_app: Counter[str] = Counter()

    @property
    def has_left(self) -> bool:
        """Tells whether links are left that wait for a free slot."""
        return bool(self._left)

    def batches(self, refs: Sequence[LinkRef]) -> Iterator[Sequence[LinkRef]]:
        """Yields these links in batches; an empty batch while no slot is free."""
        if self.limit is None:
            yield from batches(refs, self._batch_size)
            return
        for ref in refs:
            if ref.app_id not in self._left:
                self._left[ref.app_id] = deque()
                self._turns.append(ref.app_id)
            self._left[ref.app_id].append(ref)
        while self._left:
            taken = self._take(self.limit)
            yield from batches(taken, self._batch_size) if taken else ((),)

    def _take(self, limit: int) -> Sequence[LinkRef]:
        """Takes links for the free slots, round-robin across apps."""
        taken: list[LinkRef] = []
        passed = 0  # consecutive apps without a free slot
        while len(self._apps) < limit and passed < len(self._turns):
            app_id = self._turns[0]
            self._turns.rotate(-1)
            if self._by_app[app_id] >= max(1, limit // len(self._left)):
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
        return taken[::-1] if self._newest_first else taken

    def adapt(self, wait: BulkWait) -> None:
        """Halves the limit for each new failure.

        Doubles the limit once `limit` links in a row are synced.
        """
        limit = self.limit or 0
        if failures := wait.failed - self._failed:
            self.limit = max(self._fewest, limit >> failures)
            self._synced, self._failed = wait.synced, wait.failed
        elif wait.synced - self._synced >= limit:
            self.limit = min(self._most, limit * 2)
            self._synced = wait.synced

    def release(self, ids: Iterable[str]) -> None:
        """Frees the slots of links that have a result or were not queued, by row id."""
        for id_ in ids:
            if app_id := self._apps.pop(id_, None):
                self._by_app[app_id] -= 1
