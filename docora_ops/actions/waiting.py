"""Waits for the snapshots of links: follows queued links until each has a result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum, auto
from math import inf
from shlex import quote

from docora_ops.actions.docora import Docora
from docora_ops.actions.link_jobs import invalid_job_id, job_state, look_at_jobs, named_failures
from docora_ops.actions.lookup import resolve_link
from docora_ops.actions.workers import count_workers, warn_of_wrong_backend
from docora_ops.database.link_reports import count_by_app, read_results, read_unsynced
from docora_ops.database.link_rows import read_link
from docora_ops.database.postgres_server import read_standby
from docora_ops.errors import NotFoundError, RedisDeniedError, RedisError
from docora_ops.jobs import QUEUE_NAME, JobState
from docora_ops.links import (
    AppCount,
    Link,
    LinkFailure,
    LinkRef,
    LinkResult,
    LinkStatus,
    Outcome,
    batches,
)
from docora_ops.operations import (
    BulkWait,
    Change,
    JobCounts,
    KnownOperation,
    LinkWait,
    OperationState,
    WaitEnd,
)
from docora_ops.queue.audit_stream import AuditEntry, AuditEvent, add_entry, audit_entry
from docora_ops.queue.operation_links import has_links, read_links

_AT_ONCE = 5_000  # links per statement
_JOBS_AT_ONCE = 500  # links per look at the jobs
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 2.0
_LONGEST_PAUSE_OF_FEED = 0.2  # otherwise, free workers would wait for links
_TICK = 0.2  # seconds of a pause after which the caller gets control
_REST = 4  # a pause lasts at least this many times as long as the round before it
_REST_OF_JOBS = 10  # likewise, the pause after a look at the jobs
_CLEAN_UP = 60
"""Seconds within which a live worker queues the links of a killed worker again."""
_LOOK = 1  # seconds between two looks at an operation
_ENDS = {
    "away": "Redis answers again.",
    "no worker": "A worker listens again.",
    "suspended": "The workers take jobs again.",
}
"""The message when a problem has ended, by problem."""


class Feed(Enum):
    """Tells `Following.follow` whether its caller will add more links."""

    DONE = auto()
    BLOCKED = auto()  # yes, but only once a followed link has a result
    MORE = auto()


@dataclass
class JobWatch:
    """Looks at the jobs of links from time to time; reports when a problem begins and ends.

    A link is lost if two looks, `DOCORA_OPS_DRIFT_GRACE` seconds apart, find no live job. If Redis
    is down, the jobs are unknown, but the wait continues, because the results are in Postgres.

    link: APP and REPO as typed, if only one link is followed; otherwise empty.
    """

    docora: Docora
    link: str = ""
    counts: JobCounts = field(default_factory=JobCounts)  # jobs by state at the last look
    lost: list[LinkRef] = field(default_factory=list)  # lost links at the last look
    suspended: bool = False
    looked_at: float = -inf  # when the last look ended
    next_look: float = 0  # the earliest time of the next look
    had_workers: bool = False
    """True once a worker was running. Until then, a missing worker is not reported."""
    _suspects: dict[str, float] = field(default_factory=dict)
    """When a job was first found not live, by job id."""
    _noted: set[str] = field(default_factory=set)

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
            found = {}
            if self.lost:
                again = f"docora-ops repair {self.link}".rstrip()
                lost = f"no live job for {len(self.lost)} of the links"
                found["lost"] = f"{lost}. To queue {'it' if self.link else 'them'} again: {again}"
            if self.had_workers and not use.workers:
                start = f": {queue.advice.to_start_workers}" if queue.choice.is_clear else ""
                found["no worker"] = f"no worker listens on the queue {QUEUE_NAME} any more{start}"
            if use.suspension:
                go_on = f"To go on: {queue.advice.to_resume}"
                found["suspended"] = f"{use.suspension.sentence}. {go_on}"
            for problem in (self._noted - found.keys()) & _ENDS.keys():
                self.docora.note(_ENDS[problem])
            for problem in found.keys() - self._noted:
                self.docora.warn(found[problem])
            self._noted = set(found)
        self.looked_at = time.monotonic()
        rest = max(self.docora.settings.drift_grace, (self.looked_at - began) * _REST_OF_JOBS)
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
        found: Counter[str] = Counter()
        lost: list[LinkRef] = []
        suspects: dict[str, float] = {}
        for number, some in enumerate(batches(ids, _JOBS_AT_ONCE)):
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
                    grace = self.docora.settings.drift_grace
                    if status == LinkStatus.SCANNING and has_workers:
                        grace = max(grace, _CLEAN_UP)
                    if since < now and now - since >= grace:
                        lost.append(ref)
        if suspects and read_standby(database):  # a standby may not have their results yet
            suspects, lost = {}, []
        self._suspects, self.lost = suspects, lost
        self.counts = JobCounts(**found, lost=len(lost))


@dataclass
class Following:
    """Follows links until each is synced, failed or gone, or only lost links are left.

    No transaction is open while the caller handles an event.
    """

    docora: Docora
    link: str = ""  # APP and REPO as typed, if only one link is followed
    more: Feed = Feed.DONE
    ended: list[str] = field(default_factory=list)
    """Row ids of links that have a result or are gone; the caller may empty the list."""
    watch: JobWatch = field(init=False)
    _reset: list[str] = field(default_factory=list)
    """Row ids of links that were reset, so that any result is new."""
    _running: list[str] = field(default_factory=list)
    """Row ids of links whose job was running, so that `failed` may be an old result."""
    _claimed: list[str] = field(default_factory=list)
    """Row ids of links whose claim may not be committed yet, so that any result may be old."""
    _synced: int = 0
    _gone: int = 0
    _failures: list[LinkFailure] = field(default_factory=list)
    _lost_links: Sequence[LinkFailure] = ()
    _unfinished_by_app: Sequence[AppCount] = ()
    _ended_before: int | None = None  # links that had ended by the first look
    _began: float = field(default_factory=time.monotonic)
    _ends_at: float = inf

    def __post_init__(self) -> None:
        self.watch = JobWatch(self.docora, self.link)

    def add(self, ref: LinkRef, outcome: Outcome) -> None:
        """Follows the link if its outcome means that it has a live job."""
        if outcome.succeeded:
            self._reset.append(ref.id)
        elif outcome is Outcome.ALREADY_RUNNING:
            self._running.append(ref.id)

    def add_claimed(self, ids: Iterable[str]) -> None:
        """Follows links that another command has claimed or is about to claim, by row id."""
        self._claimed += ids

    def follow(
        self, timeout: float | None = None, *, is_paced: bool = False
    ) -> Generator[BulkWait]:
        """Yields the results so far until all links have one, for at most `timeout` seconds.

        After each event, the caller may add links and set `more`. Continues if Redis is down.
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
            if self._ended_before is None:
                self._ended_before = len(self._failures) + self._synced + self._gone
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
        if unfinished := self._unfinished:
            database = self.docora.database
            self._unfinished_by_app = count_by_app(database, unfinished)
            left = set(unfinished)
            lost = [(ref, "no live job") for ref in self.watch.lost if ref.id in left]
            self._lost_links = named_failures(database, lost)
        yield self.result()

    def _is_late(self) -> bool:
        return time.monotonic() >= self._ends_at

    def result(self) -> BulkWait:
        """Returns the results so far."""
        unfinished = len(self._reset) + len(self._running) + len(self._claimed)
        seconds = time.monotonic() - self._began
        ended = len(self._failures) + self._synced + self._gone - (self._ended_before or 0)
        return BulkWait(
            synced=self._synced,
            failed=len(self._failures),
            gone=self._gone,
            unfinished=unfinished,
            failed_links=self._failures,
            seconds=round(seconds, 1),
            per_second=round(ended / seconds, 3) if seconds >= 1 else 0.0,
            jobs_by_state=self.watch.counts if unfinished else JobCounts(),
            suspended=self.watch.suspended and unfinished > 0,
            lost_links=self._lost_links,
            unfinished_by_app=self._unfinished_by_app,
        )

    @property
    def _unfinished(self) -> list[str]:
        return self._reset + self._running + self._claimed

    def _check(self, ids: list[str], doubted: Sequence[LinkStatus]) -> Generator[BulkWait]:
        """Counts the links that have a result, and removes their ids from the list.

        doubted: statuses that may be an old result. They count only once the job is over.
        """
        database = self.docora.database
        # Backwards, so that removing ids does not shift the ids still to be checked.
        for start in reversed(range(0, len(ids), _AT_ONCE)):
            if self._is_late():
                return
            some = ids[start : start + _AT_ONCE]
            found = read_results(database, some)
            in_doubt = [each.ref for each in found if each.ref and each.status in doubted]
            results = [each for each in found if each.status not in doubted]
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
            ids[start : start + _AT_ONCE] = [id_ for id_ in some if id_ not in ended]
            if start:
                yield self.result()

    def _without_live_job(self, refs: Sequence[LinkRef]) -> list[str]:
        """Returns the row ids of the links without a live job. Reports it if Redis is down."""
        over = [ref.id for ref in refs if not ref.has_valid_job_id]
        try:
            looked = look_at_jobs(self.docora.database, self.docora.queue_to_read, refs)
            return over + [ref.id for ref, answer in looked if not answer.state.is_live]
        except RedisError as error:
            self.watch.redis_is_away(error)
            return over


@dataclass(frozen=True)
class LinkStep:
    """The state of a wait for one link. `end`: the result if the wait ended now."""

    link: Link
    workers: int
    wait: BulkWait
    end: LinkWait


def wait(
    docora: Docora, app: str, repository: str, *, timeout: float | None = None
) -> Generator[LinkStep]:
    """Waits for the snapshot of a link, for at most `timeout` seconds.

    Ends at once if the link is synced, or has failed and has no live job.
    Raises NotFoundError, AmbiguousError, InvalidJobIdError, PostgresError, RedisError.
    """
    link = resolve_link(docora.database, app, repository)
    if not link.ref.has_valid_job_id:
        raise invalid_job_id(link.ref)
    queue, has_result = docora.queue_to_read, link.status in {LinkStatus.SYNCED, LinkStatus.FAILED}
    job = job_state(docora.database, queue, link.ref) if has_result else None
    if job and not job.is_live:
        workers = queue.use.workers  # no job waits for a worker, so warn of nothing
        warn_of_wrong_backend(docora)
    else:
        workers = count_workers(docora)
    if link.status == LinkStatus.SYNCED:  # any live job is a rescan
        if job and job.is_live:
            see = f"docora-ops show {link.ref.words}"
            docora.note(
                f"A rescan of this link is {job}, and is not awaited. To see its job: {see}"
            )
        end = LinkWait(WaitEnd.SYNCED, link.status, None, 0)
        yield LinkStep(link, workers, BulkWait(1, 0, 0, 0, (), 0), end)
        return
    if not queue.can_push and link.circuit_is_open:
        close = f"docora-ops retry {link.ref.words} --reset-circuit"
        docora.warn(f"{link.held_back}. To close it: {close}")
    yield from _wait_for_link(docora, link, Outcome.ALREADY_RUNNING, workers, timeout)


def wait_for_change(
    docora: Docora, change: LinkResult, *, timeout: float | None = None
) -> Generator[LinkStep]:
    """Waits for the snapshot of a link after its `retry` or `resync`. See `wait`.

    Adds the result to the audit entries of the change, unless the wait is interrupted.
    """
    link = change.link
    if change.outcome.succeeded:  # after the reset, an interrupted wait must not show the old error
        link = replace(link, status=LinkStatus.PENDING_SNAPSHOT, error_message=None)
    run, outcome = change.run, change.outcome
    yield from _wait_for_link(docora, link, outcome, change.workers, timeout, run)


def _wait_for_link(
    docora: Docora,
    link: Link,
    outcome: Outcome,
    workers: int,
    timeout: float | None,
    run: str = "",
) -> Generator[LinkStep]:
    following = Following(docora, link.ref.words)
    following.watch.had_workers = workers > 0
    following.add(link.ref, outcome)
    for step in following.follow(timeout):
        interrupted = (WaitEnd.INTERRUPTED, link.status, link.error_message)
        yield LinkStep(link, workers, step, LinkWait(*interrupted, step.seconds))
    end: tuple[WaitEnd, str | None, str | None] = (WaitEnd.GONE, None, None)
    if step.synced:
        end = (WaitEnd.SYNCED, LinkStatus.SYNCED, None)
    elif step.failed:
        end = (WaitEnd.FAILED, LinkStatus.FAILED, step.failed_links[0].error_message)
    elif step.unfinished and (
        found := read_link(docora.database, link.ref.app_id, link.ref.repository_id)
    ):
        reason = WaitEnd.LOST if step.only_lost_left else WaitEnd.TIMEOUT
        end = (reason, found.status, found.error_message)
    if run and not following.watch.misses_redis:
        entry = _results_entry(docora.describe_change("wait", None), run, step)
        try:
            add_entry(docora.redis, entry)
        except RedisError as error:
            docora.warn(f"history does not show the result: {error.message}")
    yield LinkStep(link, workers, step, LinkWait(*end, step.seconds))


@dataclass(frozen=True)
class OperationStep:
    """The state of a wait for an operation.

    failures: the first links that could not be queued.
    goes_on: whether the operation may still claim links.
    """

    operation: KnownOperation
    wait: BulkWait
    failures: Sequence[LinkFailure] = ()
    goes_on: bool = True

    @property
    def left(self) -> int:
        """Counts the links that the operation has not handled."""
        return self.operation.total - self.operation.completed


def wait_for_operation(
    docora: Docora, operation_id: str, *, timeout: float | None = None
) -> Generator[OperationStep]:
    """Waits for the snapshots of a bulk operation, for at most `timeout` seconds.

    Stores the results with the operation. Raises NotFoundError, PostgresError, RedisError.
    """
    store = docora.store
    step = OperationStep(store.read(operation_id), BulkWait(0, 0, 0, 0, (), 0))
    if not has_links(docora.redis, operation_id):
        raise NotFoundError(
            f"the links of operation {operation_id!r} are not known: Docora's dashboard runs it",
            hint=f"docora-ops operations {quote(operation_id)} --follow shows how far it is",
        )
    following = Following(docora)
    following.watch.had_workers = count_workers(docora) > 0
    ids: list[str] = []
    looked_at = -inf
    lost: RedisError | None = None
    try:
        yield step
        step = _look_at_operation(docora, following, step, ids)
        for found in following.follow(timeout):
            if time.monotonic() - looked_at >= _LOOK:
                looked_at = time.monotonic()
                step = _look_at_operation(docora, following, step, ids)
            step = replace(step, wait=found)
            yield step
    except RedisError as error:
        lost = error
        raise
    finally:
        is_known = step.operation.results and not step.operation.results.unfinished
        found = following.result()
        if found.total and not (is_known or lost or following.watch.misses_redis):
            keep_results(docora, operation_id, found, docora.describe_change("wait", None))


def _look_at_operation(
    docora: Docora, following: Following, step: OperationStep, ids: list[str]
) -> OperationStep:
    """Reads the operation again, and follows the links that it has claimed meanwhile.

    ids: the row ids read so far; new ids are appended.
    """
    store, operation_id = docora.store, step.operation.operation_id
    try:
        # Counts first: once the operation has ended, all claimed links are read afterwards.
        operation = store.read(operation_id)
        failures = store.read_failures(operation_id)
        new = read_links(docora.redis, operation_id, len(ids))
        following.add_claimed(dict.fromkeys(new).keys() - set(ids if new else ()))
        ids += new
        # Only now, because an operation that is over will claim no more links.
        goes_on = operation.state is OperationState.RUNNING
        step = OperationStep(operation, step.wait, failures, goes_on)
        store.renew(operation)
    except NotFoundError:
        step = replace(step, goes_on=False)  # the operation has expired meanwhile
    except RedisError as error:
        following.watch.redis_is_away(error)
    following.more = Feed.MORE if step.goes_on else Feed.DONE
    return step


def keep_results(docora: Docora, operation_id: str, found: BulkWait, change: Change) -> None:
    """Stores the results with the operation; warns if that fails."""
    entry = _results_entry(change, operation_id, found)
    try:
        docora.store.write_results(operation_id, found.results, found.failed_links, entry)
    except RedisError as error:
        docora.warn(f"the results are not kept with the operation: {error.message}")


def _results_entry(change: Change, awaited_id: str, found: BulkWait) -> AuditEntry:
    counts = asdict(found.results)
    return audit_entry(change, AuditEvent.AWAITED, operation_id=awaited_id, counts=counts)
