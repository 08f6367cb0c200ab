"""Paces a bulk operation: hands out links so that at most N snapshots are in flight."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from docora_ops.actions.change import LinkOutcome
from docora_ops.links import LinkRef
from docora_ops.operations import BulkWait

_FEWEST = 2  # initial and minimum limit: an app that is down must leave a slot for the others


class Slots:
    """Hands out links so that at most `limit` of them are in flight: queued, without a result.

    Each link in flight takes a slot. An app gets at most its share of the slots, so that an app
    that is down can't take all. The limit starts at its minimum of 2; its maximum is `in_flight`.
    """

    def __init__(self, in_flight: int, *, newest_first: bool) -> None:
        """Hands out nothing yet.

        newest_first: jobs are pushed to the head of the queue, which reverses their order.
        """
        self._most, self._newest_first = in_flight, newest_first
        self.limit = self._fewest = min(in_flight, _FEWEST)
        self._synced = self._failed = 0  # results when the limit was last changed
        self._left: dict[str, deque[LinkRef]] = {}
        self._turns: deque[str] = deque()  # apps with links left; the first one is next
        self._app_ids: dict[str, str] = {}  # of links in flight, by row id

    @property
    def has_left(self) -> bool:
        """Tells whether links are left that wait for a free slot."""
        return bool(self._left)

    def add(self, refs: Iterable[LinkRef]) -> None:
        """Adds links to hand out."""
        for ref in refs:
            if ref.app_id not in self._left:
                self._left[ref.app_id] = deque()
                self._turns.append(ref.app_id)
            self._left[ref.app_id].append(ref)

    def free(self, outcomes: Iterable[LinkOutcome]) -> None:
        """Frees the slots of links that were not queued."""
        for item in outcomes:
            if not item.outcome.succeeded:
                self._app_ids.pop(item.ref.id, None)

    def take(self, wait: BulkWait, in_flight: Iterable[str]) -> Sequence[LinkRef]:
        """Returns links for the free slots, round-robin across apps; none if no slot is free.

        wait: the results so far.
        in_flight: the row ids of the links without a result.
        """
        self._adapt(wait)
        self._app_ids = {id_: self._app_ids[id_] for id_ in in_flight if id_ in self._app_ids}
        by_app = Counter(self._app_ids.values())
        taken: list[LinkRef] = []
        passed = 0  # consecutive apps without a free slot
        while len(self._app_ids) < self.limit and passed < len(self._turns):
            app_id = self._turns[0]
            self._turns.rotate(-1)
            if by_app[app_id] >= max(1, self.limit // len(self._left)):
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
        return taken[::-1] if self._newest_first else taken

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
