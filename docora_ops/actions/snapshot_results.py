"""Follows queued links until each of their snapshots has a result."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from docora_ops.actions.docora import Docora
from docora_ops.actions.job_watch import JobWatch
from docora_ops.actions.link_jobs import look_at_jobs, named_failures
from docora_ops.database.link_reports import read_results
from docora_ops.errors import RedisError
from docora_ops.links import LinkFailure, LinkRef, LinkStatus, Outcome
from docora_ops.operations import BulkWait, JobCounts

_AT_ONCE = 5_000  # links per statement
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
_LONGEST_PAUSE_OF_FEED = 0.2  # otherwise, free workers would wait for links
_TICK = 0.2  # seconds between two yields during a pause
_REST = 4  # a pause lasts at least this many times as long as the round before it


class Feed(Enum):
    """Tells `Following.follow` whether its caller will add more links."""

    DONE = auto()
    BLOCKED = auto()  # yes, but only once a followed link has a result
    MORE = auto()


@dataclass
class Following:
    """Follows links until each is synced, failed or gone, or has lost its job.

    No transaction is open while the caller handles a yielded result.
    """

    docora: Docora
    link: str = ""  # APP and REPO as typed, if only one link is followed
    more: Feed = Feed.DONE
    ended: list[str] = field(default_factory=list)
    """Row ids of links that have a result or are gone; the caller may empty the list."""
    watch: JobWatch = field(init=False)
    _reset: list[str] = field(default_factory=list)
    """Row ids of links that were reset: any result is new."""
    _running: list[str] = field(default_factory=list)
    """Row ids of links whose job was running: `failed` may be an old result."""
    _claimed: list[str] = field(default_factory=list)
    """Row ids of links whose claim may not be committed yet: any result may be old."""
    _synced: int = 0
    _gone: int = 0
    _failures: list[LinkFailure] = field(default_factory=list)
    _lost_links: Sequence[LinkFailure] = ()
    _began: float = field(default_factory=time.monotonic)
    _ends_at: float = inf

    def __post_init__(self) -> None:
        self.watch = JobWatch(self.docora, self.link)

    def add(self, ref: LinkRef, outcome: Outcome) -> None:
        """Follows the link if its outcome means that a snapshot will run, or is running."""
        if outcome.is_put_to_work:
            self._reset.append(ref.id)
        elif outcome is Outcome.ALREADY_RUNNING:
            self._running.append(ref.id)

    def add_claimed(self, ids: Iterable[str]) -> None:
        """Follows links that another command has claimed or is about to claim, by row id."""
        self._claimed += ids

    def follow(
        self, timeout: float | None = None, *, is_paced: bool = False
    ) -> Generator[BulkWait]:
        """Yields the results so far, again and again, for at most `timeout` seconds.

        Ends earlier if each link has a result or has lost its job, and no links are to be added.
        After each yield, the caller may add links and set `more`. Continues if Redis is down.
        Raises PostgresError, RedisDeniedError.

        is_paced: look for results more often, because the caller adds links as results come in.
        """
        self._began = time.monotonic()
        self._ends_at = inf if timeout is None else self._began + timeout
        pause, before = _FIRST_PAUSE, (0, 0)
        # Docora's worker may write `failed` although BullMQ will try the job again.
        can_push = self.docora.queue_to_read.can_push
        yield self.result()
        while True:
            round_began = time.monotonic()
            yield from self._check(self._reset, () if can_push else (LinkStatus.FAILED,))
            yield from self._check(self._running, (LinkStatus.FAILED,))
            yield from self._check(self._claimed, (LinkStatus.FAILED, LinkStatus.SYNCED))
            if unfinished := self._unfinished:
                for _ in self.watch.look(unfinished):
                    if self._is_late():
                        break
                    yield self.result()
            result = self.result()
            yield result
            if self.watch.looked_at >= round_began and result.only_lost_left:
                is_over = self.more is not Feed.MORE
            else:
                is_over = self.more is Feed.DONE and not self._unfinished
            if is_over or self._is_late():
                break
            if is_paced and before != (result.total, result.unfinished):
                pause, before = _FIRST_PAUSE, (result.total, result.unfinished)
            rest = max(pause, (time.monotonic() - round_began) * _REST)
            rest = min(rest, self._ends_at - time.monotonic())
            while rest > 0:
                time.sleep(min(rest, _TICK))
                rest -= _TICK
                if rest > 0:
                    yield self.result()
            pause = min(pause * 1.5, _LONGEST_PAUSE_OF_FEED if is_paced else _LONGEST_PAUSE)
        left = set(self._unfinished)
        lost = [(ref, "no live job") for ref in self.watch.lost if ref.id in left]
        self._lost_links = named_failures(self.docora.database, lost)
        yield self.result()

    def _is_late(self) -> bool:
        return time.monotonic() >= self._ends_at

    def result(self) -> BulkWait:
        """Returns the results so far."""
        unfinished = len(self._reset) + len(self._running) + len(self._claimed)
        return BulkWait(
            synced=self._synced,
            failed=len(self._failures),
            gone=self._gone,
            unfinished=unfinished,
            failed_links=self._failures,
            seconds=round(time.monotonic() - self._began, 1),
            jobs_by_state=self.watch.counts if unfinished else JobCounts(),
            suspended=self.watch.suspended and unfinished > 0,
            lost_links=self._lost_links,
        )

    @property
    def _unfinished(self) -> list[str]:
        return self._reset + self._running + self._claimed

    def _check(self, ids: list[str], doubted: Sequence[LinkStatus]) -> Generator[BulkWait]:
        """Counts the links that have a result, and removes their row ids from `ids`.

        doubted: statuses that may be an old result. They count only once the job is over.
        """
        database = self.docora.database
        # Backwards, so that removing ids does not shift the ids still to be checked.
        for start in reversed(range(0, len(ids), _AT_ONCE)):
            if self._is_late():
                return
            batch = ids[start : start + _AT_ONCE]
            rows = read_results(database, batch)
            in_doubt = [row.ref for row in rows if row.ref and row.status in doubted]
            results = [row for row in rows if row.status not in doubted]
            if over := self._without_live_job(in_doubt):
                # Read again after the look, because a job records its result before it ends.
                results += read_results(database, over)
            failed = [
                (result.ref, result.error_message or "")
                for result in results
                if result.ref is not None and result.status == LinkStatus.FAILED
            ]
            # Done before counting: if Postgres is lost here, the results stay correct.
            self._failures += named_failures(database, failed)
            self._gone += sum(result.ref is None for result in results)
            self._synced += sum(result.status == LinkStatus.SYNCED for result in results)
            ended = {result.id for result in results}
            self.ended += ended
            ids[start : start + _AT_ONCE] = [id_ for id_ in batch if id_ not in ended]
            if start:
                yield self.result()

    def _without_live_job(self, refs: Sequence[LinkRef]) -> list[str]:
        """Returns the row ids of the links without a live job.

        If Redis is down, reports this, and returns only links that can't have a job.
        """
        over = [ref.id for ref in refs if not ref.has_valid_job_id]
        try:
            looked = look_at_jobs(self.docora.database, self.docora.queue_to_read, refs)
            return over + [ref.id for ref, answer in looked if not answer.state.is_live]
        except RedisError as error:
            self.watch.redis_is_away(error)
            return over
