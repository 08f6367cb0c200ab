"""The state of a Docora for the first screen and the metrics. Only reads."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from docora_ops.actions.background import in_background
from docora_ops.actions.links import count_by_app, count_by_error
from docora_ops.actions.look import look_at_jobs
from docora_ops.bulk import KnownOperation
from docora_ops.database import Database
from docora_ops.database.counts import count_links
from docora_ops.database.drift_rows import count_unfinished_links, some_unfinished_links
from docora_ops.database.link_scans import scanning_links
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import JobState, OtherQueue, QueueOverview
from docora_ops.links import FAILED_LINKS, LinkStatus
from docora_ops.queue import LinkQueue, ProgressStore
from docora_ops.status import DriftCounts, LinkOverview, Status, Trend

_MOST = 5000
"""Links whose jobs are looked at: more take longer than the rest of a screen."""
_GROUPS = 5
"""Apps and errors that are named."""
_RECENT = 60
"""Seconds over which the rate is measured."""


def read_status(
    database: Database, open_queue: Callable[[], LinkQueue], store: ProgressStore, redis_name: str
) -> Status:
    """Reads from both servers what each of them tells; a lost one does not prevent the other.

    `open_queue`: may ask Redis which queue it is. `redis_name`: names the server.
    """
    errors: list[ServerError] = []
    links = overview = last_operation = queue = None
    other = OtherQueue.UNUSED

    def read_redis() -> tuple[LinkQueue, QueueOverview, OtherQueue, KnownOperation | None]:
        queue = open_queue()
        last = next(iter(store.read_all()), None)
        return queue, queue.overview(1), queue.read_other(), last

    # Together, two servers that do not answer cost no more time than one.
    redis = in_background(read_redis)
    try:
        links = _read_links(database)
    except PostgresError as error:
        errors.append(error)
    try:
        queue, overview, other, last_operation = redis.result()
    except RedisError as error:
        errors.append(error)
    status = Status(
        postgres=database.target,
        redis=redis_name,
        links=links,
        queue=overview,
        last_operation=last_operation,
        drift=None,
        errors=errors,
        other_queue=other,
    )
    if queue and overview and links and queue.choice.is_clear and not status.has_only_others:
        try:
            return replace(status, drift=count_drift(database, queue, overview.unfinished))
        except ServerError as error:
            errors.append(error)
    return status


def _read_links(database: Database) -> LinkOverview:
    with database.snapshot():
        return LinkOverview(
            counts=count_links(database),
            failed_by_app=count_by_app(database, FAILED_LINKS, 1, _GROUPS),
            failed_by_error=count_by_error(database, FAILED_LINKS, 1, _GROUPS),
        )


def count_drift(database: Database, queue: LinkQueue, jobs: int) -> DriftCounts:
    """Counts lost and stuck links with one look, where `doctor` takes two.

    `jobs`: the number of unfinished jobs, for a lower bound if there are too many links to look at.
    Raises PostgresError, RedisError.
    """
    if queue.is_docoras:
        links = [(ref, LinkStatus.SCANNING.value) for ref in scanning_links(database)]
    else:
        links = some_unfinished_links(database, _MOST + 1)
    if len(links) > _MOST and not queue.is_docoras:
        return DriftCounts(max(0, count_unfinished_links(database) - jobs), 0, at_least=True)
    statuses = dict(links)
    found = Counter(status for ref, status in links if not ref.has_valid_job_id)
    for ref, answer in look_at_jobs(database, queue, list(statuses)):
        if queue.docora_picks_up(statuses[ref], answer):
            continue
        if answer.state in {JobState.NONE, JobState.UNREADABLE} or answer.is_orphaned:
            found[statuses[ref]] += 1
    return DriftCounts(found[LinkStatus.PENDING_SNAPSHOT], found[LinkStatus.SCANNING])


class Watch:
    """Compares each state of a Docora with the first one."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._first: dict[str, int] = {}
        self._recent: deque[tuple[float, int]] = deque()

    def compare(self, status: Status, now: float) -> Trend:
        """Returns the changes; `now`: a moment in seconds, by any clock."""
        if self._began is None:
            self._began = now
        jobs = status.queue.unfinished if status.queue else None
        rate = self._rate(jobs, now)
        counts = status.links.counts.by_status if status.links else {}
        return Trend(
            seconds=now - self._began,
            synced=self._change("synced", counts.get(LinkStatus.SYNCED)),
            failed=self._change("failed", counts.get(LinkStatus.FAILED)),
            jobs=self._change("jobs", jobs),
            jobs_per_second=rate,
            seconds_left=jobs / rate if jobs and rate and rate > 0 else None,
        )

    def _change(self, name: str, count: int | None) -> int | None:
        return None if count is None else count - self._first.setdefault(name, count)

    def _rate(self, jobs: int | None, now: float) -> float | None:
        if jobs is None:
            self._recent.clear()
            return None
        self._recent.append((now, jobs))
        while now - self._recent[0][0] > _RECENT and len(self._recent) > 2:  # noqa: PLR2004
            self._recent.popleft()
        began, before = self._recent[0]
        return (before - jobs) / (now - began) if now > began else None
