"""Following links that were put to work to what their snapshots come to in the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from docora_ops.actions.bulk.run import Stop
from docora_ops.actions.waiting.job_watch import JobWatch
from docora_ops.database import Database
from docora_ops.database.link_rows import held_job_ids, read_link
from docora_ops.database.verdicts import ID_SIZE, Verdict, read_verdicts
from docora_ops.errors import RedisError
from docora_ops.jobs import JobState
from docora_ops.links import LinkFailure, LinkRef, LinkStatus, Outcome
from docora_ops.queue import Answer, LinkQueue
from docora_ops.waits import BulkWait, JobCounts, LinkWait, WaitEnd

_AT_ONCE = 5_000
"""Links that are asked for in one statement."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0
_REST = 4
"""How many times longer than a round of questions the pause after it is, at least."""
_SLICE = 0.1
"""Seconds after which a request to stop is noticed."""
_LIVE = frozenset({JobState.RUNNING, JobState.WAITING})


@dataclass
class Following:
    """Links that are followed until each is synced, failed or gone, or only lost ones are left.

    Each costs 16 bytes until then, and no transaction is open between two questions.
    """

    database: Database
    queue: LinkQueue
    stop: Stop = field(default_factory=Stop)
    grace: float = 5
    """Seconds without a live job after which a link is lost."""
    on_step: Callable[[BulkWait], None] = lambda _wait: None
    _reset: bytearray = field(default_factory=bytearray)
    """Ids of links that were made pending: any verdict there is has come after that."""
    _running: bytearray = field(default_factory=bytearray)
    """Ids of links whose job was running, and that may be `failed` from before it."""
    _doubtful: dict[str, str] = field(default_factory=dict)
    """Since when jobs are queued that stood in no list at the last look."""
    _synced: int = 0
    _gone: int = 0
    _failures: list[LinkFailure] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    watch: JobWatch = field(init=False)
    """Counts the jobs by state, and notices missing workers."""

    def __post_init__(self) -> None:
        self.watch = JobWatch(self.database, self.queue, self.stop, self.grace)

    def add(self, ref: LinkRef, outcome: Outcome) -> None:
        """Follow the link, if by this outcome it has a job."""
        if outcome.succeeded:
            self._reset += UUID(ref.id).bytes
        elif outcome is Outcome.ALREADY_RUNNING:
            self._running += UUID(ref.id).bytes

    def run(self, timeout: float | None = None) -> BulkWait:
        """Until all is known, for `timeout` seconds at most, or until told to stop.

        With a timeout of 0 it looks once. Ends when only lost links are left. Raises PostgresError;
        `result()` says what is known by then. Without Redis it goes on.
        """
        self._began = time.monotonic()
        pause = _FIRST_PAUSE
        while True:
            round_began = time.monotonic()
            self._look_at(self._reset)
            self._look_at(self._running)
            now = time.monotonic()
            left = None if timeout is None else self._began + timeout - now
            is_over = self.stop.requested or (left is not None and left <= 0)
            remaining = bytes(self._reset + self._running)
            has_looked = bool(remaining) and self.watch.look(remaining, at_once=is_over)
            result = self.result()
            self.on_step(result)
            if not result.running or is_over:
                return result
            if has_looked and result.only_lost_left and self.watch.is_hopeless:
                return result
            rest = max(pause, (now - round_began) * _REST)
            self._pause(rest if left is None else min(rest, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def result(self) -> BulkWait:
        """What is known so far."""
        return BulkWait(
            synced=self._synced,
            failed=len(self._failures),
            gone=self._gone,
            running=(len(self._reset) + len(self._running)) // ID_SIZE,
            failures=self._failures,
            seconds=time.monotonic() - self._began,
            jobs=self.watch.counts if self._reset or self._running else JobCounts(),
        )

    def _look_at(self, ids: bytearray) -> None:
        """Count those of which there is a verdict, and forget them."""
        size = _AT_ONCE * ID_SIZE
        # From the end, so that what is taken out moves nothing that is still to come.
        for start in reversed(range(0, len(ids), size)):
            if self.stop.requested:
                return
            asked = bytes(ids[start : start + size])
            if ids is self._running:
                verdicts = self._verdicts_after_jobs(asked)
            else:
                verdicts = read_verdicts(self.database, asked)
            if not verdicts:
                continue
            known = {verdict.position for verdict in verdicts}
            ids[start : start + size] = b"".join(
                asked[position * ID_SIZE : (position + 1) * ID_SIZE]
                for position in range(len(asked) // ID_SIZE)
                if position not in known
            )
            for verdict in verdicts:
                self._count(verdict)

    def _verdicts_after_jobs(self, ids: bytes) -> Sequence[Verdict]:
        """A running job may not have said yet that it is at work on a failed link."""
        failed = [
            verdict.job_id
            for verdict in read_verdicts(self.database, ids)
            if verdict.status == LinkStatus.FAILED
        ]
        over: set[str] = set()
        if failed:
            held = held_job_ids(self.database, failed)
            try:
                answers = self.queue.look(failed)
            except RedisError as error:
                self.watch.redis_is_away(error)
                answers = []
            over = {
                answer.job_id
                for answer in answers
                if answer.state not in _LIVE
                and answer.job_id not in held
                and not self._is_newly_doubtful(answer)
            }
        # Once more: only now is it certain that the job has had the last word.
        return [
            verdict
            for verdict in read_verdicts(self.database, ids)
            if verdict.status != LinkStatus.FAILED or verdict.job_id in over
        ]

    def _is_newly_doubtful(self, answer: Answer) -> bool:
        """Whether a worker may have the job in its hand, and be about to begin."""
        if answer.state is not JobState.DOUBTFUL:
            return False
        before = self._doubtful.get(answer.job_id)
        self._doubtful[answer.job_id] = answer.detail
        return before != answer.detail

    def _count(self, verdict: Verdict) -> None:
        if verdict.status is None:
            self._gone += 1
        elif verdict.status == LinkStatus.SYNCED:
            self._synced += 1
        else:
            self._failures.append(LinkFailure(verdict.job_id, verdict.error or ""))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stop.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))


def wait_for_one(following: Following, ref: LinkRef, timeout: float | None) -> LinkWait:
    """Follow this link alone, as `Following.run` does. Raises the same."""
    wait = following.run(timeout)
    if wait.synced:
        return LinkWait(WaitEnd.SYNCED, LinkStatus.SYNCED, None, wait.seconds)
    if wait.failed:
        [failure] = wait.failures
        return LinkWait(WaitEnd.FAILED, LinkStatus.FAILED, failure.error, wait.seconds)
    link = None
    if wait.running:
        link = read_link(following.database, ref.app_id, ref.repository_id)
    if link is None:
        return LinkWait(WaitEnd.GONE, None, None, wait.seconds)
    end = WaitEnd.LOST if wait.only_lost_left else WaitEnd.TIMEOUT
    if following.stop.requested:
        end = WaitEnd.INTERRUPTED
    return LinkWait(end, link.status, link.last_error, wait.seconds)
