"""Following the links of a bulk operation that another command runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from docora_ops.actions.waiting.follow import Feed, Following
from docora_ops.audit import Change
from docora_ops.bulk import KnownOperation, OperationState
from docora_ops.errors import NotFoundError, RedisError
from docora_ops.links import LinkFailure
from docora_ops.queue import ProgressStore
from docora_ops.queue.audit_stream import results_entry
from docora_ops.queue.progress import HEARTBEAT

_PAUSE = 1  # seconds between two looks at the operation


@dataclass
class OperationWatch:
    """Adds the links that an operation claims to those that `following` follows."""

    following: Following
    store: ProgressStore
    progress: KnownOperation
    """The operation at the last look."""
    failures: list[LinkFailure] = field(default_factory=list)
    """The first links that could not be queued."""
    failures_total: int = 0
    goes_on: bool = True  # the operation may claim further links
    _read: int = 0
    _known: set[str] = field(default_factory=set)
    _looked_at: float = 0
    _renewed_at: float = 0

    @property
    def left(self) -> int:
        """Counts the links that the operation has not handled."""
        return self.progress.total - self.progress.completed

    def look(self) -> Feed:
        """Looks at the operation, if it is time to."""
        now = time.monotonic()
        if not self._looked_at or now - self._looked_at >= _PAUSE:
            self._looked_at = now
            try:
                self._look(now)
            except RedisError as error:
                self.following.watch.redis_is_away(error)
        return Feed.MORE if self.goes_on else Feed.DONE

    def record_results(self, change: Change) -> None:
        """Keeps the results with the operation, unless all of them are known already.

        Does nothing if Redis was away at the last look. Raises RedisError.
        """
        known, found = self.progress.results, self.following.result()
        is_known = known is not None and not known.unfinished
        if not found.total or is_known or self.following.watch.misses_redis:
            return
        self.progress = replace(self.progress, results=found.results)
        entry = results_entry(change, self.progress.operation_id, found.results)
        self.store.write_results(self.progress.operation_id, found.results, entry)

    def _look(self, now: float) -> None:
        operation_id = self.progress.operation_id
        # The counts first: all links that were claimed before the end are read after it.
        try:
            self.progress = self.store.read(operation_id)
        except NotFoundError:
            self.goes_on = False  # it has expired meanwhile
            return
        if self.progress.not_queued > self.failures_total:
            self.failures, self.failures_total = self.store.read_failures(operation_id)
        ids = self.store.read_links(operation_id, self._read)
        self._read += len(ids)
        new = dict.fromkeys(id_ for id_ in ids if id_ not in self._known)
        self._known.update(new)
        self.following.add_claimed(new)
        self.goes_on = self.progress.state is OperationState.RUNNING
        if now - self._renewed_at > HEARTBEAT:
            self._renewed_at = now
            self.store.renew(self.progress)
