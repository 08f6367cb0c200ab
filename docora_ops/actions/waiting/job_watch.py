"""Looking at the jobs and the workers of links that are followed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from docora_ops.actions.look import look_at_jobs
from docora_ops.batches import batches
from docora_ops.database import Database
from docora_ops.database.postgres_server import read_standby
from docora_ops.database.results import read_unsynced
from docora_ops.errors import RedisDeniedError, RedisError
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, LinkStatus
from docora_ops.queue import Answer, LinkQueue
from docora_ops.waits import JobCounts

_AT_ONCE = 500  # links per statement
_REST = 10  # the pause between two looks lasts at least this many times as long as a look
_CLEAN_UP = 60
"""Seconds within which a worker that listens queues the links of a killed worker again."""


class Notice(Enum):
    """A problem that a look has found, or its end."""

    LOST = auto()
    NO_WORKER = auto()
    SUSPENDED = auto()
    REDIS_AWAY = auto()
    REDIS_BACK = auto()
    WORKER_BACK = auto()
    RESUMED = auto()


_ENDS = {
    Notice.REDIS_AWAY: Notice.REDIS_BACK,
    Notice.NO_WORKER: Notice.WORKER_BACK,
    Notice.SUSPENDED: Notice.RESUMED,
}


@dataclass
class JobWatch:
    """Looks at the jobs of links now and then, and reports each change once.

    A link is lost if it has no live job at two looks that are `grace` seconds apart. Without Redis
    the jobs are unknown, but the wait can go on: Postgres has the results.
    """

    database: Database
    queue: LinkQueue
    must_end: Callable[[], bool]
    grace: float
    on_notice: Callable[[Notice, str], None] = lambda _notice, _text: None
    counts: JobCounts = field(default_factory=JobCounts)  # jobs by state at the last look
    lost: list[LinkRef] = field(default_factory=list)  # at the last look
    suspended: bool = False
    had_workers: bool = False
    """A worker has listened on the queue; until then, its absence is not reported."""
    _workers: int = 0
    next_look: float = 0  # no look before this moment
    _suspects: dict[str, float] = field(default_factory=dict)
    """When a job was first found not live, by job id."""
    _cleaned_up_at: float = 0  # when workers have queued all lost links again that they can queue
    _reported: set[Notice] = field(default_factory=set)

    def look(self, ids: Sequence[str]) -> bool:
        """Looks at the links with these row ids, if it is time to; returns whether it looked."""
        began = time.monotonic()
        if self.must_end() or began < self.next_look:
            return False
        try:
            counts, lost = self._count(ids, began)
            workers = self.queue.count_workers()
            suspension = self.queue.read_suspension()
        except RedisError as error:
            self._suspects.clear()
            self.counts, self.lost, self.suspended = JobCounts(), [], False
            self.redis_is_away(error)
        else:
            if self.must_end():
                return False  # it may have looked at a part of them
            self.counts, self.lost = counts, lost
            self.suspended = suspension is not None
            self._workers = workers
            self.had_workers |= workers > 0
            self._report(Notice.REDIS_AWAY, holds=False)
            self._report(Notice.LOST, str(counts.lost), holds=counts.lost > 0)
            self._report(Notice.NO_WORKER, holds=self.had_workers and not workers)
            sentence = suspension.sentence if suspension else ""
            self._report(Notice.SUSPENDED, sentence, holds=suspension is not None)
        ended = time.monotonic()
        self.next_look = ended + max(self.grace, (ended - began) * _REST)
        return True

    def redis_is_away(self, error: RedisError) -> None:
        """Reports that Redis can't be asked. Raises the error if it is a lasting one."""
        if isinstance(error, RedisDeniedError):
            raise error
        self._report(Notice.REDIS_AWAY, error.message)

    @property
    def misses_redis(self) -> bool:
        """Tells whether Redis could not be asked at the last look."""
        return Notice.REDIS_AWAY in self._reported

    @property
    def is_hopeless(self) -> bool:
        """Tells whether no worker will queue the lost links again."""
        return not self._workers or time.monotonic() >= self._cleaned_up_at

    def _count(self, ids: Sequence[str], now: float) -> tuple[JobCounts, list[LinkRef]]:
        """Counts the jobs by state. Returns the lost links, too."""
        found: Counter[str] = Counter()
        lost: list[LinkRef] = []
        suspects: dict[str, float] = {}
        for ref, answer, status in self._jobs(ids):
            if answer.state is JobState.RUNNING:
                found["running"] += 1
            elif answer.state is JobState.WAITING:
                found["delayed" if answer.is_delayed else "waiting"] += 1
            elif self.queue.docora_picks_up(status, answer):
                found["waiting"] += 1
            elif status != LinkStatus.FAILED:
                since = self._suspects.get(answer.job_id, now)
                suspects[answer.job_id] = since
                if since < now and now - since >= self.grace:
                    lost.append(ref)
                    if status == LinkStatus.SCANNING:
                        self._cleaned_up_at = max(self._cleaned_up_at, since + _CLEAN_UP)
        if suspects and read_standby(self.database):  # their results may only not be here yet
            suspects, lost = {}, []
        self._suspects = suspects
        return JobCounts(**found, lost=len(lost)), lost

    def _jobs(self, ids: Sequence[str]) -> Iterator[tuple[LinkRef, Answer, str]]:
        """Yields each link that is not synced, with its job and its status."""
        for some in batches(ids, _AT_ONCE):
            if self.must_end():
                return
            statuses = dict(read_unsynced(self.database, some))
            for ref, answer in look_at_jobs(self.database, self.queue, list(statuses)):
                yield ref, answer, statuses[ref]

    def _report(self, notice: Notice, text: str = "", *, holds: bool = True) -> None:
        if holds and notice not in self._reported:
            self._reported.add(notice)
            self.on_notice(notice, text)
        elif not holds and notice in self._reported:
            self._reported.discard(notice)
            if notice in _ENDS:
                self.on_notice(_ENDS[notice], "")
