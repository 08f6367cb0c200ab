"""Following queued links until their snapshots have results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from docora_ops.actions.failures import named_failures
from docora_ops.actions.folding import LONGEST, group_errors
from docora_ops.actions.look import look_at_jobs
from docora_ops.actions.waiting.job_watch import JobWatch
from docora_ops.database import Database
from docora_ops.database.link_rows import read_link
from docora_ops.database.results import SnapshotResult, count_by_app, read_results
from docora_ops.errors import RedisError
from docora_ops.interrupts import Stop
from docora_ops.jobs import JobState
from docora_ops.link_lists import ErrorGroup
from docora_ops.links import AppCount, LinkFailure, LinkRef, LinkStatus, Outcome
from docora_ops.queue import Answer, LinkQueue
from docora_ops.waits import BulkWait, JobCounts, LinkWait, WaitEnd

_AT_ONCE = 5_000  # links per statement
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
_FIRST_PAUSE_OF_FEED, _LONGEST_PAUSE_OF_FEED = 0.02, 0.2  # else free workers wait for links
_RATE_STEP, _RATE_PERIOD = 1, 60  # seconds
_REST = 4  # the pause after a round lasts at least this many times as long as its statements


class Feed(Enum):
    """The links that a caller of `Following.run` is still going to add."""

    DONE = auto()  # none
    BLOCKED = auto()  # some, but none before a link that is followed has a result
    MORE = auto()  # some


@dataclass
class Following:
    """Follows links until each is synced, failed or gone, or only lost links are left.

    Opens no transaction between two rounds.
    """

    database: Database
    queue: LinkQueue
    stop: Stop = field(default_factory=Stop)
    grace: float = 5  # seconds without a live job after which a link is lost
    on_step: Callable[[BulkWait], None] = lambda _wait: None
    on_ended: Callable[[Collection[str]], None] = lambda _ids: None
    """Called with the row ids of links that have a result or are gone."""
    watch: JobWatch = field(init=False)
    _reset: list[str] = field(default_factory=list)
    """Row ids of links that were made pending: a result can only be newer."""
    _running: list[str] = field(default_factory=list)
    """Row ids of links whose job was running: `failed` may be older than that job."""
    _claimed: list[str] = field(default_factory=list)
    """Row ids of links whose claim may not be committed yet: any result may be older."""
    _doubtful: dict[str, str] = field(default_factory=dict)
    """The evidence of doubtful jobs at the last look, by job id."""
    _synced: int = 0
    _gone: int = 0
    _failures: list[LinkFailure] = field(default_factory=list)
    _lost_links: Sequence[LinkFailure] = ()
    _failed_by_error: Sequence[ErrorGroup] = ()
    _unfinished_by_app: Sequence[AppCount] = ()
    _ended_by: deque[tuple[float, int]] = field(default_factory=deque)
    """Moments of the last minute, and the number of links that had ended by then."""
    _began: float = field(default_factory=time.monotonic)
    _ends_at: float = inf

    def __post_init__(self) -> None:
        self.watch = JobWatch(self.database, self.queue, self._must_end, self.grace)

    def _must_end(self) -> bool:
        """Tells whether the time is over or a stop requested: a look breaks off then."""
        return self.stop.requested or time.monotonic() >= self._ends_at

    def add(self, ref: LinkRef, outcome: Outcome) -> None:
        """Follows the link if the outcome says that it has a job."""
        if outcome.succeeded:
            self._reset.append(ref.id)
        elif outcome is Outcome.ALREADY_RUNNING:
            self._running.append(ref.id)

    def add_claimed(self, ids: Iterable[str]) -> None:
        """Follows links that another command has claimed or is about to, by their row ids."""
        self._claimed += ids

    def run(
        self,
        timeout: float | None = None,
        feed: Callable[[], Feed] = lambda: Feed.DONE,
        *,
        is_paced: bool = False,
    ) -> BulkWait:
        """Follows the links until all have results, for `timeout` seconds at most.

        Each round calls `feed`, which may add links. `is_paced`: it adds links when others have
        results, which are looked for more often. Ends early if asked to stop. Goes on without
        Redis. Raises PostgresError, RedisDeniedError; `result()` returns the results so far.
        """
        self._began = time.monotonic()
        self._ends_at = inf if timeout is None else self._began + timeout
        try:
            self._follow(feed, is_paced=is_paced)
        finally:
            self._group_failures()
        self._name_unfinished()
        return self.result()

    def _follow(self, feed: Callable[[], Feed], *, is_paced: bool) -> None:
        shortest, longest = _FIRST_PAUSE, _LONGEST_PAUSE
        if is_paced:
            shortest, longest = _FIRST_PAUSE_OF_FEED, _LONGEST_PAUSE_OF_FEED
        pause, before = shortest, (0, 0)
        while True:
            round_began = time.monotonic()
            # Docora's worker may write `failed` though BullMQ is going to try the job again.
            doubted = (LinkStatus.FAILED,) if self.queue.is_docoras else ()
            self._check(self._reset, doubted)
            self._check(self._running, doubted=(LinkStatus.FAILED,))
            self._check(self._claimed, doubted=(LinkStatus.FAILED, LinkStatus.SYNCED))
            now = time.monotonic()
            if not self._ended_by:  # what had ended before tells nothing about the rate
                self._ended_by.append((now, self._ended))
            fed = Feed.DONE if self._must_end() else feed()
            unfinished = self._unfinished
            has_looked = bool(unfinished) and self.watch.look(unfinished)
            result = self.result()
            self.on_step(result)
            is_hopeless = has_looked and result.only_lost_left and self.watch.is_hopeless
            if self._must_end() or (is_hopeless and fed is not Feed.MORE):
                return
            if fed is Feed.DONE and not unfinished:
                return
            if is_paced and before != (result.total, result.unfinished):
                pause, before = shortest, (result.total, result.unfinished)
            rest = max(pause, (now - round_began) * _REST)
            pause = min(pause * 1.5, longest)
            self.stop.sleep(min(rest, self._ends_at - time.monotonic()))

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
            per_second=self._rate(),
            jobs_by_state=self.watch.counts if unfinished else JobCounts(),
            suspended=self.watch.suspended and unfinished > 0,
            failed_by_error=self._failed_by_error,
            lost_links=self._lost_links,
            unfinished_by_app=self._unfinished_by_app,
        )

    def _rate(self) -> float:
        """Returns how many links have ended per second, within the last minute."""
        now, before = time.monotonic(), self._ended_by
        if not before:
            return 0.0
        if now - before[-1][0] >= _RATE_STEP:
            before.append((now, self._ended))
        while now - before[0][0] > _RATE_PERIOD and len(before) > 1:
            before.popleft()
        passed = now - before[0][0]
        return round((self._ended - before[0][1]) / passed, 3) if passed >= _RATE_STEP else 0.0

    @property
    def _unfinished(self) -> list[str]:
        return self._reset + self._running + self._claimed

    @property
    def _ended(self) -> int:
        return self._synced + self._gone + len(self._failures)

    def _group_failures(self) -> None:
        self._failed_by_error = group_errors(
            (each.job_id.partition("-")[0], each.error_message[: LONGEST + 1], 1)
            for each in self._failures
        )

    def _name_unfinished(self) -> None:
        """Counts the links without a result by app, and names those that are lost."""
        unfinished = set(self._unfinished)
        if unfinished:
            self._unfinished_by_app = count_by_app(self.database, list(unfinished))
        lost = [ref for ref in self.watch.lost if ref.id in unfinished]
        self._lost_links = named_failures(self.database, [(ref, "no live job") for ref in lost])

    def _check(self, ids: list[str], doubted: Collection[str]) -> None:
        """Counts the results of links and removes their ids, some thousand at a time."""
        # From the end: removing ids moves none of those still to be checked.
        for start in reversed(range(0, len(ids), _AT_ONCE)):
            if self._must_end():
                return
            some = ids[start : start + _AT_ONCE]
            ended = self._count(self._results(some, doubted))
            ids[start : start + _AT_ONCE] = [id_ for id_ in some if id_ not in ended]

    def _results(self, ids: Sequence[str], doubted: Collection[str]) -> list[SnapshotResult]:
        """Reads results. A status that is doubted counts only if the job of the link is over."""
        found = read_results(self.database, ids)
        in_doubt = [each.ref for each in found if each.ref and each.status in doubted]
        results = [each for each in found if each.status not in doubted]
        if over := self._without_live_job(in_doubt):
            # Read again after the look at the jobs: a job records its result before it ends.
            results += read_results(self.database, over)
        return results

    def _without_live_job(self, refs: Sequence[LinkRef]) -> list[str]:
        """Returns the row ids of the links whose jobs are over, none if Redis can't be asked."""
        over = [ref.id for ref in refs if not ref.has_valid_job_id]
        try:
            looked = look_at_jobs(self.database, self.queue, refs)
            return over + [ref.id for ref, answer in looked if self._has_ended(answer)]
        except RedisError as error:
            self.watch.redis_is_away(error)
            return over

    def _has_ended(self, answer: Answer) -> bool:
        """Tells whether the job is over; a doubtful one if it was as doubtful at the last look."""
        if self.queue.docora_picks_up(LinkStatus.FAILED, answer):
            return False
        if answer.state is JobState.DOUBTFUL:
            before = self._doubtful.get(answer.job_id)
            self._doubtful[answer.job_id] = answer.evidence
            return before == answer.evidence
        return answer.state not in {JobState.RUNNING, JobState.WAITING}

    def _count(self, results: Iterable[SnapshotResult]) -> set[str]:
        """Counts the results and returns the row ids of their links."""
        results = list(results)
        # Before anything is counted: Postgres may be lost here, and the results so far stay right.
        self._failures += self._name_failures(results)
        self._gone += sum(result.ref is None for result in results)
        self._synced += sum(result.status == LinkStatus.SYNCED for result in results)
        ended = {result.id for result in results}
        self.on_ended(ended)
        return ended

    def _name_failures(self, results: Iterable[SnapshotResult]) -> list[LinkFailure]:
        failed = [
            (result.ref, result.error_message or "")
            for result in results
            if result.ref is not None and result.status == LinkStatus.FAILED
        ]
        return named_failures(self.database, failed)


def wait_for_one(following: Following, ref: LinkRef, timeout: float | None) -> LinkWait:
    """Follows the only link of `following`. Raises PostgresError."""
    wait = following.run(timeout)
    if wait.synced:
        return LinkWait(WaitEnd.SYNCED, LinkStatus.SYNCED, None, wait.seconds)
    if wait.failed:
        [failure] = wait.failed_links
        return LinkWait(WaitEnd.FAILED, LinkStatus.FAILED, failure.error_message, wait.seconds)
    link = read_link(following.database, ref.app_id, ref.repository_id) if wait.unfinished else None
    if link is None:
        return LinkWait(WaitEnd.GONE, None, None, wait.seconds)
    end = WaitEnd.LOST if wait.only_lost_left else WaitEnd.TIMEOUT
    if following.stop.requested:
        end = WaitEnd.INTERRUPTED
    return LinkWait(end, link.status, link.error_message, wait.seconds)
