"""The state of a Docora for the first screen and the metrics. Only reads."""

from __future__ import annotations

from collections import Counter, deque

from docora_ops.actions.links import count_by_app, count_by_error
from docora_ops.actions.look import look_at_jobs
from docora_ops.bulk import KnownOperation
from docora_ops.database import Database
from docora_ops.database.counts import count_links
from docora_ops.database.drift_rows import some_unfinished_links
from docora_ops.errors import RedisError, ServerError
from docora_ops.jobs import JobState, QueueOverview
from docora_ops.links import LinkFilter, LinkStatus
from docora_ops.overview import DriftCounts, LinkOverview, Status, Trend
from docora_ops.queue import LinkQueue, ProgressStore, QueueReader

_MOST = 5000
"""Links whose jobs are looked at: more would take longer than the rest of a screen."""
_FAILED = LinkFilter(statuses=[LinkStatus.FAILED])
_GROUPS = 5
"""Apps and errors that are named."""
_RECENT = 60
"""Seconds over which the rate is measured."""


def read_status(
    database: Database, queue: LinkQueue, reader: QueueReader, store: ProgressStore
) -> Status:
    """Reads from both servers what each of them tells; a lost one does not prevent the other."""
    errors: list[ServerError] = []
    links = drift = None
    overview: QueueOverview | None = None
    last_operation: KnownOperation | None = None
    try:
        overview = reader.overview(1)
        last_operation = next(iter(store.read_all()), None)
    except RedisError as error:
        errors.append(error)
    try:
        links = _read_links(database)
        if not errors:
            drift = count_drift(database, queue)
    except ServerError as error:
        errors.append(error)
    return Status(
        postgres=database.target,
        redis=queue.where,
        links=links,
        queue=overview,
        last_operation=last_operation,
        drift=drift,
        errors=sorted(errors, key=lambda error: isinstance(error, RedisError)),
    )


def _read_links(database: Database) -> LinkOverview:
    with database.snapshot():
        return LinkOverview(
            counts=count_links(database),
            failed_by_app=count_by_app(database, _FAILED, 1, _GROUPS),
            failed_by_error=count_by_error(database, _FAILED, 1, _GROUPS),
        )


def count_drift(database: Database, queue: LinkQueue) -> DriftCounts | None:
    """Counts lost and stuck links with one look; None if too many links are unfinished for that.

    A job that a worker may be taking counts as live, which `doctor` looks at twice instead.
    Raises PostgresError, RedisError.
    """
    links = some_unfinished_links(database, _MOST + 1)
    if len(links) > _MOST:
        return None
    statuses = dict(links)
    found = Counter(
        statuses[ref]
        for ref, answer in look_at_jobs(database, queue, list(statuses))
        if answer.state is JobState.NONE
    )
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
        jobs = status.jobs
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
