"""Looks at the jobs of links from time to time, while their snapshots are awaited."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from math import inf

from docora_ops.actions.docora import Docora
from docora_ops.actions.link_jobs import look_at_jobs
from docora_ops.database.link_reports import read_unsynced
from docora_ops.database.postgres_server import read_standby
from docora_ops.errors import RedisDeniedError, RedisError
from docora_ops.jobs import QUEUE_NAME, JobState
from docora_ops.links import LinkRef, LinkStatus, batches
from docora_ops.operations import JobCounts

_JOBS_AT_ONCE = 500  # links between two yields
_REST = 10  # the pause after a look lasts at least this many times as long as the look
_CLEAN_UP = 60
"""Seconds within which a live worker queues the links of a killed worker again."""


@dataclass
class JobWatch:
    """Looks at the jobs of links from time to time; reports when a problem begins.

    A link is lost if two looks, at least `DOCORA_OPS_DRIFT_GRACE` seconds apart, find no live job.
    While workers run, the looks at a `scanning` link must be at least `_CLEAN_UP` seconds apart.
    While Redis is down, the jobs are unknown, but the wait continues: the results are in Postgres.

    link: APP and REPO as typed, if only one link is followed; otherwise empty.
    """

    docora: Docora
    link: str = ""
    counts: JobCounts = field(default_factory=JobCounts)  # jobs by state at the last look
    lost: list[LinkRef] = field(default_factory=list)  # lost links at the last look
    suspended: bool = False
    looked_at: float = -inf  # when the last look ended
    next_look: float = 0  # the earliest time of the next look
    had_workers: bool = field(init=False)
    """True once a worker was running. Until then, a missing worker is not reported."""
    _suspects: dict[str, float] = field(default_factory=dict)
    """When a job was first found not live, by job id."""
    _noted: set[str] = field(init=False)

    def __post_init__(self) -> None:
        queue = self.docora.queue_to_read
        self.had_workers = queue.use.workers > 0
        # `warn_of_workers` has warned of the suspension, if the backend is clear.
        self._noted = {"suspended"} if queue.use.suspension and queue.choice.is_clear else set()

    def look(self, ids: Sequence[str]) -> Generator[None]:
        """Looks at the links with these row ids, if a look is due. Yields between statements."""
        began = time.monotonic()
        if began < self.next_look:
            return
        queue = self.docora.queue_to_read
        try:
            use = queue.read_use()
            yield from self._count(ids, began, has_workers=use.workers > 0)
        except RedisError as error:
            self._suspects.clear()
            self.counts, self.lost, self.suspended = JobCounts(), [], False
            self.redis_is_away(error)
        else:
            self.suspended = use.suspension is not None
            self.had_workers |= use.workers > 0
            notes = {}
            if self.lost:
                again = f"docora-ops repair {self.link}".rstrip()
                lost = f"no live job for {len(self.lost)} of the links"
                notes["lost"] = f"{lost}. To queue {'it' if self.link else 'them'} again: {again}"
            if self.had_workers and not use.workers:
                start = f": {queue.advice.to_start_workers}" if queue.choice.is_clear else ""
                notes["no worker"] = f"no worker listens on the queue {QUEUE_NAME} any more{start}"
            if use.suspension:
                go_on = f"To go on: {queue.advice.to_resume}"
                notes["suspended"] = f"{use.suspension.sentence}. {go_on}"
            for problem in notes.keys() - self._noted:
                self.docora.warn(notes[problem])
            self._noted = set(notes)
        self.looked_at = time.monotonic()
        rest = max(self.docora.settings.drift_grace, (self.looked_at - began) * _REST)
        self.next_look = self.looked_at + rest

    def redis_is_away(self, error: RedisError) -> None:
        """Reports that Redis is down. Raises the error if Redis denied the command or login."""
        if isinstance(error, RedisDeniedError):
            raise error
        if not self.misses_redis:
            self._noted.add("away")
            goes_on = "the wait goes on, since the results are in Postgres"
            self.docora.warn(f"{error.message}; {goes_on}")

    @property
    def misses_redis(self) -> bool:
        """Tells whether Redis was down at the last look."""
        return "away" in self._noted

    def _count(self, ids: Sequence[str], now: float, *, has_workers: bool) -> Generator[None]:
        database, queue = self.docora.database, self.docora.queue_to_read
        counts: Counter[str] = Counter()
        lost: list[LinkRef] = []
        suspects: dict[str, float] = {}
        for number, batch in enumerate(batches(ids, _JOBS_AT_ONCE)):
            if number:
                yield
            statuses = read_unsynced(database, batch)
            for ref, answer in look_at_jobs(database, queue, list(statuses)):
                status = statuses[ref]
                if answer.state is JobState.RUNNING:
                    counts["running"] += 1
                elif answer.state is JobState.WAITING:
                    counts["delayed" if answer.is_delayed else "waiting"] += 1
                elif queue.docora_picks_up(status, answer):
                    counts["waiting"] += 1
                elif status != LinkStatus.FAILED:
                    since = suspects[ref.job_id] = self._suspects.get(ref.job_id, now)
                    grace = self.docora.settings.drift_grace
                    if status == LinkStatus.SCANNING and has_workers:
                        grace = max(grace, _CLEAN_UP)
                    if since < now and now - since >= grace:
                        lost.append(ref)
        if suspects and read_standby(database):  # a standby may not have their results yet
            suspects, lost = {}, []
        self._suspects, self.lost = suspects, lost
        self.counts = JobCounts(**counts, lost=len(lost))
