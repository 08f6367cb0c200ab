"""Looking at the jobs and the workers of links that are followed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from docora_ops.actions.docora import Docora
from docora_ops.actions.look import look_at_jobs, named_failures
from docora_ops.bulk import JobCounts
from docora_ops.database.link_reports import read_unsynced
from docora_ops.database.postgres_server import read_standby
from docora_ops.errors import RedisDeniedError, RedisError
from docora_ops.jobs import QUEUE_NAME, JobState
from docora_ops.links import LinkFailure, LinkRef, LinkStatus, batches

_AT_ONCE = 500  # links per statement
_REST = 10  # the pause between two looks lasts at least this many times as long as a look
_CLEAN_UP = 60
"""Seconds within which a worker that listens queues the links of a killed worker again."""


@dataclass
class JobWatch:
    """Looks at the jobs of links now and then, and notes each problem once, and its end.

    A link is lost if it has no live job at two looks that are `grace` seconds apart. Without Redis
    the jobs are unknown, but the wait can go on: Postgres has the results.

    link: APP and REPO of the only link, as they are typed; empty if there are several.
    """

    docora: Docora
    link: str = ""
    counts: JobCounts = field(default_factory=JobCounts)  # jobs by state at the last look
    lost: list[LinkRef] = field(default_factory=list)  # at the last look
    lost_links: Sequence[LinkFailure] = ()  # the same, by name
    suspended: bool = False
    next_look: float = 0  # no look before this moment
    had_workers: bool = False
    """A worker has listened on the queue; until then, its absence is not noted."""
    _workers: int = 0
    _suspects: dict[str, float] = field(default_factory=dict)
    """When a job was first found not live, by job id."""
    _cleaned_up_at: float = 0  # when workers have queued all lost links again that they can queue
    _noted: set[str] = field(default_factory=set)

    def look(self, ids: Sequence[str]) -> Generator[None, None, bool]:
        """Looks at the links with these row ids, if it is time to; returns whether it looked.

        Yields between two statements.
        """
        began = time.monotonic()
        if began < self.next_look:
            return False
        queue = self.docora.queue_to_read
        try:
            counts, lost = yield from self._count(ids, began)
            workers = queue.count_workers()
            suspension = queue.read_suspension()
        except RedisError as error:
            self._suspects.clear()
            self.counts, self.lost, self.lost_links, self.suspended = JobCounts(), [], (), False
            self.redis_is_away(error)
        else:
            if lost != self.lost:
                failures = [(ref, "no live job") for ref in lost]
                self.lost_links = named_failures(self.docora.database, failures)
            self.counts, self.lost = counts, lost
            self.suspended = suspension is not None
            self._workers = workers
            self.had_workers |= workers > 0
            self._note_all(suspension.sentence if suspension else "")
        ended = time.monotonic()
        grace = self.docora.settings.drift_grace
        self.next_look = ended + max(grace, (ended - began) * _REST)
        return True

    def _note_all(self, suspension: str) -> None:
        advice = self.docora.advice
        self._note_end("away", "Redis answers again.")
        if self.counts.lost:
            repair = f"docora-ops repair {self.link}".rstrip()
            again = f"To queue {'it' if self.link else 'them'} again: {repair}"
            self._note("lost", f"no live job for {self.counts.lost} of the links. {again}")
        else:
            self._note_end("lost")
        if self._workers:
            self._note_end("no worker", "A worker listens again.")
        elif self.had_workers:
            start = f": {advice.to_start_workers}" if self.docora.backend.is_clear else ""
            queue = f"the queue {QUEUE_NAME}"
            self._note("no worker", f"no worker listens on {queue} any more{start}")
        if suspension:
            self._note("suspended", f"{suspension}. To go on: {advice.to_resume}")
        else:
            self._note_end("suspended", "The workers take jobs again.")

    def redis_is_away(self, error: RedisError) -> None:
        """Notes that Redis can't be asked. Raises the error if it is a lasting one."""
        if isinstance(error, RedisDeniedError):
            raise error
        self._note("away", f"{error.message}; the wait goes on, since the results are in Postgres")

    @property
    def misses_redis(self) -> bool:
        """Tells whether Redis could not be asked at the last look."""
        return "away" in self._noted

    @property
    def is_hopeless(self) -> bool:
        """Tells whether no worker will queue the lost links again."""
        return not self._workers or time.monotonic() >= self._cleaned_up_at

    def _count(
        self, ids: Sequence[str], now: float
    ) -> Generator[None, None, tuple[JobCounts, list[LinkRef]]]:
        """Counts the jobs by state. Returns the lost links, too."""
        database, queue = self.docora.database, self.docora.queue_to_read
        found: Counter[str] = Counter()
        lost: list[LinkRef] = []
        suspects: dict[str, float] = {}
        for number, some in enumerate(batches(ids, _AT_ONCE)):
            if number:
                yield
            statuses = dict(read_unsynced(database, some))
            for ref, answer in look_at_jobs(database, queue, list(statuses)):
                status = statuses[ref]
                if answer.state is JobState.RUNNING:
                    found["running"] += 1
                elif answer.state is JobState.WAITING:
                    found["delayed" if answer.is_delayed else "waiting"] += 1
                elif queue.docora_picks_up(status, answer):
                    found["waiting"] += 1
                elif status != LinkStatus.FAILED:
                    since = suspects[answer.job_id] = self._suspects.get(answer.job_id, now)
                    if since < now and now - since >= self.docora.settings.drift_grace:
                        lost.append(ref)
                        if status == LinkStatus.SCANNING:
                            self._cleaned_up_at = max(self._cleaned_up_at, since + _CLEAN_UP)
        if suspects and read_standby(database):  # their results may only not be here yet
            suspects, lost = {}, []
        self._suspects = suspects
        return JobCounts(**found, lost=len(lost)), lost

    def _note(self, problem: str, sentence: str) -> None:
        if problem not in self._noted:
            self._noted.add(problem)
            self.docora.note(f"Warning: {sentence}", is_warning=True)

    def _note_end(self, problem: str, sentence: str = "") -> None:
        if problem in self._noted:
            self._noted.discard(problem)
            if sentence:
                self.docora.note(sentence)
