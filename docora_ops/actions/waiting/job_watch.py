"""Looking, while links are followed, at where their jobs stand and who is at work on the queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from docora_ops.actions.bulk.run import Stop
from docora_ops.database import Database
from docora_ops.database.link_rows import held_job_ids
from docora_ops.database.verdicts import ID_SIZE, read_unfinished
from docora_ops.errors import RedisError
from docora_ops.jobs import JobState
from docora_ops.links import LinkStatus
from docora_ops.queue import Answer, LinkQueue
from docora_ops.queue.link_queue import DELAYED
from docora_ops.waits import JobCounts

_AT_ONCE = 500
"""Links that are asked for in one statement and one script."""
_FEW = 100
"""So many ids are looked for one by one in the waiting list; for more it is read once."""
_REST = 10
"""The pause between two looks lasts at least this many times as long as a look."""
_CLEAN_UP = 60
"""Seconds in which a worker that listens has queued the links of a killed one again."""


class Notice(Enum):
    """A problem that a look has found, or the end of one."""

    LOST = auto()
    NO_WORKER = auto()
    SUSPENDED = auto()
    REDIS_AWAY = auto()
    REDIS_BACK = auto()


@dataclass
class JobWatch:
    """Looks at the jobs of links now and then, and says each change once.

    A link is lost if it has no live job at two looks that are `grace` seconds apart. A Redis that
    is away is no end: the results stand in Postgres.
    """

    database: Database
    queue: LinkQueue
    stop: Stop
    grace: float
    on_notice: Callable[[Notice, str], None] = lambda _notice, _text: None
    counts: JobCounts = field(default_factory=JobCounts)
    """Jobs by state, as the last look found them."""
    had_workers: bool = False
    """A worker has listened on the queue. Until then, it is no news that none does."""
    _next_look: float = 0
    _suspects: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By job id, when it was first seen without a live job, and the evidence of a doubtful one."""
    _cleaned_up_at: float = 0
    """When the last lost link that a worker may still queue again is given up."""
    _workers: int = 0
    _said: set[Notice] = field(default_factory=set)

    def look(self, ids: bytes, *, at_once: bool = False) -> bool:
        """Look at the links with these row ids, if it is time to; returns whether it has.

        Raises PostgresError.
        """
        began = time.monotonic()
        if self.stop.requested or (began < self._next_look and not at_once):
            return False
        try:
            counts = self._count(ids, began)
            self._look_at_workers()
        except RedisError as error:
            self._suspects.clear()
            self.counts = JobCounts()
            self._say(Notice.REDIS_AWAY, error.message)
        else:
            if self.stop.requested:
                return False  # it may have looked at a part of them
            self.counts = counts
            if Notice.REDIS_AWAY in self._said:
                self._said -= {Notice.REDIS_AWAY, Notice.REDIS_BACK}
                self._say(Notice.REDIS_BACK)
            self._say_while(Notice.LOST, counts.lost > 0, str(counts.lost))
        ended = time.monotonic()
        self._next_look = ended + max(self.grace, (ended - began) * _REST)
        return True

    def redis_is_away(self, error: RedisError) -> None:
        """Note that Redis did not answer another question either."""
        self._say(Notice.REDIS_AWAY, error.message)

    @property
    def is_hopeless(self) -> bool:
        """Returns whether no worker will queue the lost links again."""
        return not self._workers or time.monotonic() >= self._cleaned_up_at

    def _count(self, ids: bytes, now: float) -> JobCounts:
        found: Counter[str] = Counter()
        suspects: dict[str, tuple[float, str]] = {}
        for answer, status, is_held in self._answers(ids):
            if is_held or answer.state is JobState.RUNNING:
                found["running"] += 1
            elif answer.state is JobState.WAITING:
                found["delayed" if answer.detail == DELAYED else "waiting"] += 1
            elif status in {LinkStatus.PENDING_SNAPSHOT, LinkStatus.SCANNING}:
                since, evidence = self._suspects.get(answer.job_id, (None, ""))
                if since is None or evidence != answer.detail:
                    suspects[answer.job_id] = now, answer.detail
                    continue
                suspects[answer.job_id] = since, evidence
                if now - since >= self.grace:
                    found["lost"] += 1
                    if status == LinkStatus.SCANNING:
                        self._cleaned_up_at = max(self._cleaned_up_at, since + _CLEAN_UP)
        self._suspects = suspects
        return JobCounts(**found)

    def _answers(self, ids: bytes) -> Iterator[tuple[Answer, str, bool]]:
        waiting = self.queue.read_waiting() if len(ids) > _FEW * ID_SIZE else None
        for start in range(0, len(ids), _AT_ONCE * ID_SIZE):
            if self.stop.requested:
                return
            links = read_unfinished(self.database, ids[start : start + _AT_ONCE * ID_SIZE])
            job_ids = [link.job_id for link in links]
            answers = self.queue.look(job_ids, waiting=waiting) if links else []
            held = held_job_ids(self.database, job_ids)
            for link, answer in zip(links, answers, strict=True):
                yield answer, link.status, link.job_id in held

    def _look_at_workers(self) -> None:
        self._workers = self.queue.count_workers()
        self.had_workers |= self._workers > 0
        self._say_while(Notice.NO_WORKER, self.had_workers and not self._workers)
        self._say_while(Notice.SUSPENDED, self.queue.is_suspended())

    def _say_while(self, notice: Notice, holds: bool, text: str = "") -> None:
        if holds:
            self._say(notice, text)
        else:
            self._said.discard(notice)

    def _say(self, notice: Notice, text: str = "") -> None:
        if notice not in self._said:
            self._said.add(notice)
            self.on_notice(notice, text)
