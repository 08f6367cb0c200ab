"""Decides which links of a bulk operation come next: all in turn, or paced by results."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from docora_ops.links import LinkRef
from docora_ops.operations import BulkWait

_FEWEST = 2  # initial and minimum limit: an app that is down must leave a slot for the others


class Turns(Protocol):
    """Hands out links."""

    @property
    def has_left(self) -> bool:
        """Tells whether links are left."""

    @property
    def limit(self) -> int | None:
        """Returns how many links may be in flight now; None means no limit."""

    def add(self, refs: Sequence[LinkRef]) -> None:
        """Adds links after the remaining ones."""

    def adapt(self, wait: BulkWait) -> None:
        """Adapts the limit to the results so far."""

    def take(self) -> Sequence[LinkRef]:
        """Takes the next links; empty while `limit` links are in flight."""

    def release(self, ids: Iterable[str]) -> None:
        """Frees the slots of links that have a result or were not queued, by row id."""


class InTurn:
    """Hands out all links at once, in order."""

    limit = None

    def __init__(self, refs: Sequence[LinkRef]) -> None:
        self._left = refs

    @property
    def has_left(self) -> bool:
        return bool(self._left)

    def add(self, refs: Sequence[LinkRef]) -> None:
        self._left = [*self._left, *refs]

    def adapt(self, wait: BulkWait) -> None:
        """Does nothing."""

    def take(self) -> Sequence[LinkRef]:
        taken, self._left = self._left, ()
        return taken

    def release(self, ids: Iterable[str]) -> None:
        """Does nothing."""


class Paced:
    """Hands out links so that at most `limit` of them are in flight: queued, without a result.

    Each link in flight takes a slot. An app gets at most its share of the slots, so that an app
    that is down can't take all. The limit starts at its minimum of 2; its maximum is `in_flight`.
    """

    def __init__(
        self, refs: Sequence[LinkRef], in_flight: int, *, newest_first: bool = False
    ) -> None:
        self.limit = self._fewest = min(in_flight, _FEWEST)
        self._most = in_flight
        self._newest_first = newest_first
        self._synced = 0  # synced links when the limit was last changed
        self._failed = 0  # failed links when `adapt` was last called
        self._left: dict[str, deque[LinkRef]] = {}
        self._turns: deque[str] = deque()  # apps with links left; the first one is next
        self._apps: dict[str, str] = {}  # app ids of links in flight, by row id
        self._by_app: Counter[str] = Counter()
        self.add(refs)

    @property
    def has_left(self) -> bool:
        return bool(self._left)

    def add(self, refs: Sequence[LinkRef]) -> None:
        """Adds links, each after the remaining links of its app."""
        for ref in refs:
            if ref.app_id not in self._left:
                self._left[ref.app_id] = deque()
                self._turns.append(ref.app_id)
            self._left[ref.app_id].append(ref)

    def adapt(self, wait: BulkWait) -> None:
        """Halves the limit for each new failure; doubles it after `limit` snapshots without one."""
        if failures := wait.failed - self._failed:
            self.limit = max(self._fewest, self.limit >> failures)
            self._synced, self._failed = wait.synced, wait.failed
        elif wait.synced - self._synced >= self.limit:
            self.limit = min(self._most, self.limit * 2)
            self._synced = wait.synced

    def take(self) -> Sequence[LinkRef]:
        """Takes links for the free slots, round-robin across apps."""
        taken: list[LinkRef] = []
        passed = 0  # consecutive apps without a free slot
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
        # Each job is pushed to the head, which reverses the order.
        return taken[::-1] if self._newest_first else taken

    def release(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            if app_id := self._apps.pop(id_, None):
                self._by_app[app_id] -= 1
