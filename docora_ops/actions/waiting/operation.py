"""Following the links of a bulk operation that another command runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from docora_ops.actions.waiting.follow import Following
from docora_ops.bulk import Progress
from docora_ops.errors import NotFoundError, RedisError
from docora_ops.links import LinkFailure
from docora_ops.queue import ProgressStore
from docora_ops.queue.progress import HEARTBEAT

_PAUSE = 1  # seconds between two looks at the operation


@dataclass
class OperationWatch:
    """Adds the links that an operation claims to those that `following` follows."""

    following: Following
    store: ProgressStore
    progress: Progress
    """The counts at the last look."""
    failures: list[LinkFailure] = field(default_factory=list)
    """The first links that could not be queued."""
    failures_total: int = 0
    has_lost_its_runner: bool = False
    goes_on: bool = True  # the operation may claim further links
    _read: int = 0
    _known: set[str] = field(default_factory=set)
    _looked_at: float = 0
    _renewed_at: float = 0

    def look(self) -> bool:
        """Looks at the operation, if it is time to. Tells whether it may claim further links."""
        now = time.monotonic()
        if self._looked_at and now - self._looked_at < _PAUSE:
            return self.goes_on
        self._looked_at = now
        try:
            self._look(now)
        except RedisError as error:
            self.following.watch.redis_is_away(error)
        return self.goes_on

    def _look(self, now: float) -> None:
        operation_id = self.progress.operation_id
        # The counts first: all links that were claimed before the end are read after it.
        try:
            self.progress = self.store.read(operation_id)
            self.has_lost_its_runner = self.store.has_lost_its_runner(operation_id)
        except NotFoundError:
            self.goes_on = False  # it has expired meanwhile
            return
        if self.progress.failed > self.failures_total:
            self.failures, self.failures_total = self.store.read_failures(operation_id)
        ids = self.store.read_links(operation_id, self._read) or []
        self._read += len(ids)
        new = dict.fromkeys(id_ for id_ in ids if id_ not in self._known)
        self._known.update(new)
        self.following.add_found(new)
        has_ended = self.progress.finished or self.progress.cancelled or self.has_lost_its_runner
        self.goes_on = not has_ended
        if now - self._renewed_at > HEARTBEAT:
            self.store.renew(self.progress)
            self._renewed_at = now
