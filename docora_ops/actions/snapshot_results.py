"""Follows queued links until each of their snapshots has a result."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from math import inf

from docora_ops.actions.change import LinkOutcome
from docora_ops.actions.docora import Docora
from docora_ops.actions.job_watch import JobWatch
from docora_ops.actions.link_jobs import look_at_jobs, named_failures
from docora_ops.database.link_reports import read_results
from docora_ops.errors import RedisError
from docora_ops.links import LinkFailure, LinkRef, LinkStatus, Outcome
from docora_ops.operations import BulkWait, JobCounts

_AT_ONCE = 5_000  # links per statement
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
_LONGEST_PAUSE_IF_PACED = 0.2  # otherwise, free workers would wait for links
_TICK = 0.2  # seconds between two yields during a pause
_REST = 4  # a pause lasts at least this many times as long as the look before it


class Following:
    """Follows links until each is synced, failed or gone, or has lost its job.

    Goes on if Redis is down, because the results are in Postgres. The generators yield only while
    no transaction is open.

    has_lost_all: whether, at the last look, links were left and none of them had a live job.
    expects_more: whether more links may be added, so that `follow` goes on without any.
    """

    def __init__(self, docora: Docora, link: str = "", *, is_paced: bool = False) -> None:
        """Follows no link yet. The caller has warned of missing and suspended workers.

        link: APP and REPO as typed, if only one link is followed.
        is_paced: look more often, because each result lets the caller queue another link.
        """
        self._docora, self._is_paced = docora, is_paced
        self.watch = JobWatch(docora, link)
        self.has_lost_all = self.expects_more = False
        self._unfinished: defaultdict[Sequence[LinkStatus], list[str]] = defaultdict(list)
        """Row ids of links without a result, by the statuses that may be an old result."""
        self._synced = self._gone = 0
        self._failures: list[LinkFailure] = []
        self._lost_links: Sequence[LinkFailure] = ()
        self._pause, self._next_look = _FIRST_PAUSE, -inf
        self.start(None)

    def start(self, timeout: float | None) -> None:
        """Starts the clock. `timeout`: the maximum seconds to wait from now on; None: no limit."""
        self._began = time.monotonic()
        self._ends_at = inf if timeout is None else self._began + timeout

    def add(self, outcomes: Iterable[LinkOutcome]) -> None:
        """Follows the changed links whose snapshot will run or is running."""
        self.has_lost_all = False
        # Docora's worker may write `failed` although BullMQ will try the job again.
        if_changed = () if self._docora.queue_to_read.can_push else (LinkStatus.FAILED,)
        for item in outcomes:
            if item.outcome.is_put_to_work:
                self._unfinished[if_changed].append(item.ref.id)
            elif item.outcome is Outcome.ALREADY_RUNNING:
                self._unfinished[LinkStatus.FAILED,].append(item.ref.id)

    def add_unchanged(self, ids: Iterable[str]) -> None:
        """Follows links, by row id, whose status may be the result of an earlier snapshot.

        For example, another command has claimed the links, but has not committed the change yet.
        """
        self.has_lost_all = False
        self._unfinished[LinkStatus.FAILED, LinkStatus.SYNCED] += ids

    @property
    def unfinished(self) -> list[str]:
        """Returns the row ids of the links without a result."""
        return [id_ for ids in self._unfinished.values() for id_ in ids]

    @property
    def is_late(self) -> bool:
        """Tells whether the timeout has passed."""
        return time.monotonic() >= self._ends_at

    def follow(self) -> Generator[BulkWait]:
        """Yields the results so far, until each link has a result or has lost its job.

        Ends at the timeout at the latest. Raises PostgresError, RedisDeniedError.
        """
        yield self.result()
        while self.expects_more or (self.unfinished and not self.has_lost_all):
            for _ in self.look():
                yield self.result()
                if self.is_late:  # a look at many links takes long
                    break
            if self.is_late:
                break
        left = set(self.unfinished)
        lost = [(ref, "no live job") for ref in self.watch.lost if ref.id in left]
        self._lost_links = named_failures(self._docora.database, lost)
        yield self.result()

    def look(self) -> Iterator[None]:
        """Looks for results once, as soon as the next look is due.

        Yields during the pause, between statements, and at the end. Raises PostgresError,
        RedisDeniedError.
        """
        rest = min(self._next_look, self._ends_at) - time.monotonic()
        while rest > 0:
            time.sleep(min(rest, _TICK))
            rest -= _TICK
            if rest > 0:
                yield
        began, before = time.monotonic(), len(self.unfinished)
        for may_be_old, ids in list(self._unfinished.items()):
            # Backwards, so that removing ids does not shift the ids still to be checked.
            for start in reversed(range(0, len(ids), _AT_ONCE)):
                part = slice(start, start + _AT_ONCE)
                ended = self._count_results(ids[part], may_be_old)
                ids[part] = [id_ for id_ in ids[part] if id_ not in ended]
                if start:
                    yield
        if unfinished := self.unfinished:
            yield from self.watch.look(unfinished)
        self.has_lost_all = self.watch.looked_at >= began and self.result().only_lost_left
        if self._is_paced and len(unfinished) < before:
            self._pause = _FIRST_PAUSE
        ended_at = time.monotonic()
        self._next_look = ended_at + max(self._pause, (ended_at - began) * _REST)
        longest = _LONGEST_PAUSE_IF_PACED if self._is_paced else _LONGEST_PAUSE
        self._pause = min(self._pause * 1.5, longest)
        yield

    def result(self) -> BulkWait:
        """Returns the results so far."""
        unfinished = sum(map(len, self._unfinished.values()))
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

    def _count_results(self, ids: Sequence[str], may_be_old: Sequence[LinkStatus]) -> set[str]:
        """Counts the links that have a result, and returns their row ids.

        may_be_old: statuses that may be old results, and count only if the job is not live.
        """
        database = self._docora.database
        rows = read_results(database, ids)
        in_doubt = [row.ref for row in rows if row.ref and row.status in may_be_old]
        results = [row for row in rows if row.status not in may_be_old]
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
        return {result.id for result in results}

    def _without_live_job(self, refs: Sequence[LinkRef]) -> list[str]:
        """Returns the row ids of the links without a live job.

        If Redis is down, reports this, and returns only links that can't have a job.
        """
        over = [ref.id for ref in refs if not ref.has_valid_job_id]
        try:
            looked = look_at_jobs(self._docora.database, self._docora.queue_to_read, refs)
            return over + [ref.id for ref, answer in looked if not answer.state.is_live]
        except RedisError as error:
            self.watch.redis_is_away(error)
            return over
