"""The ids in the queue's list and the expired executions, each read once for many looks at jobs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rq.utils import utcformat

NOT_IN_LIST = -1
LIST_NOT_READ = -2

_CLOCK_SKEW = timedelta(seconds=30)
"""By how much the clock of a producer, which writes `enqueued_at`, may lag behind that of Redis."""


@dataclass(frozen=True, slots=True)
class ExpiredExecutions:
    """The executions in RQ's registry of running jobs whose heartbeat had expired at a moment."""

    read_at: int
    by_job: Mapping[str, Sequence[str]]
    """Members of the registry, by job id."""


class WaitingList:
    """The index of each id in a queue's list when the list was read, and after our own moves.

    LPOS searches the list for each id, which takes quadratic time for many ids.
    """

    def __init__(self, ids: Iterable[bytes], expired: ExpiredExecutions) -> None:
        self.expired = expired
        read_at = datetime.fromtimestamp(expired.read_at, UTC)
        self.cutoff = utcformat(read_at - _CLOCK_SKEW)
        """A job whose `enqueued_at` is earlier was enqueued before the list was read."""
        self._hints: dict[bytes, int] = {}
        self._further: dict[bytes, list[int]] = {}
        """The other indexes of ids that stand in the list more than once."""
        for index, job_id in enumerate(ids):
            if job_id in self._hints:
                self._further.setdefault(job_id, []).append(index)
            else:
                self._hints[job_id] = index
        self.length = len(self._hints)
        self._pushed_to_head = 0
        self._moved: Sequence[int] = ()
        """Sorted indexes, as read, of the ids that were moved to the head."""

    def hint(self, job_id: str) -> str | int:
        """Returns the indexes of the id with commas, `NOT_IN_LIST` or `LIST_NOT_READ`."""
        key = job_id.encode()
        index = self._hints.get(key, NOT_IN_LIST)
        if index < 0:
            return index
        indexes = (index, *self._further.get(key, ()))
        return ",".join(
            str(each + self._pushed_to_head - bisect_left(self._moved, each)) for each in indexes
        )

    def note_pushed_to_head(self, job_ids: Iterable[str]) -> None:
        """Shifts the indexes of other ids. A wrong index costs a search, no more."""
        moved = list(self._moved)
        for job_id in map(str.encode, job_ids):
            self._pushed_to_head += 1
            if (index := self._hints.get(job_id, NOT_IN_LIST)) >= 0:
                moved += (index, *self._further.get(job_id, ()))
                self._hints[job_id] = LIST_NOT_READ
        self._moved = sorted(moved)
