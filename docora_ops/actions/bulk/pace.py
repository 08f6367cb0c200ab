"""The order in which a bulk operation queues links while others are in flight."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from docora_ops.links import LinkRef


class Pace:
    """Hands out links so that at most `in_flight` are queued and have no result.

    Each of them takes a slot. An app gets at most its share of the slots, so that an app that is
    down can't take all.
    """

    def __init__(self, refs: Iterable[LinkRef], in_flight: int) -> None:
        self._in_flight = in_flight
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
        """Adds links to those that are left."""
        for ref in refs:
            if ref.app_id not in self._left:
                self._left[ref.app_id] = deque()
                self._turns.append(ref.app_id)
            self._left[ref.app_id].append(ref)

    def take(self) -> list[LinkRef]:
        """Takes links for all free slots: one of each app in turn, then a second one of each."""
        taken: list[LinkRef] = []
        passed = 0  # apps in a row that have no free slot
        while len(self._apps) < self._in_flight and passed < len(self._turns):
            app_id = self._turns[0]
            self._turns.rotate(-1)
            if self._by_app[app_id] >= max(1, self._in_flight // len(self._left)):
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
