"""The state of a Docora for the first screen and the metrics. Only reads."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial
from typing import Any

from docora_ops.actions.background import PATIENCE, in_background, outcome, too_late
from docora_ops.actions.docora import Docora
from docora_ops.actions.look import look_at_jobs
from docora_ops.actions.reading import count_by_app, count_by_error
from docora_ops.bulk import KnownOperation
from docora_ops.database import Database
from docora_ops.database.counts import count_links
from docora_ops.database.drift_rows import count_unfinished_links, some_unfinished_links
from docora_ops.database.link_scans import scanning_links
from docora_ops.database.postgres_server import read_standby
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import JobState, OtherQueue, QueueOverview
from docora_ops.links import FAILED_LINKS, LinkStatus
from docora_ops.queue import LinkQueue
from docora_ops.queue.redis_client import describe, latency
from docora_ops.status import DriftCounts, LinkOverview, Status, Trend

_MOST = 5000
"""Links whose jobs are looked at: more take longer than the rest of a screen."""
_GROUPS = 5
"""Apps and errors that are named."""
_RECENT = 60
"""Seconds over which the rate is measured."""


def read_status(docora: Docora) -> Iterator[Status]:
    """Reads from both servers what each of them tells; a lost one does not prevent the other.

    Yields each second what is known so far and, after 8 s at most, all that was read by then.
    """
    database, client = docora.database, docora.redis

    def read_redis() -> tuple[LinkQueue, QueueOverview, OtherQueue, KnownOperation | None]:
        queue = docora.queue_to_read
        last = next(iter(docora.store.read_all()), None)
        return queue, queue.overview(1), queue.read_other(), last

    redis_name = describe(client)
    until = time.monotonic() + PATIENCE
    # Together, two servers that do not answer cost no more time than one.
    redis_latency = in_background(partial(latency, client))
    redis = in_background(read_redis)
    postgres = in_background(lambda: (_read_links(database), database.latency()))
    asked: dict[Future[Any], str] = {
        postgres: database.target,
        redis: f"Redis {redis_name}",
        redis_latency: f"Redis {redis_name}",
    }
    drift: Future[DriftCounts | None] | None = None
    while True:
        # What ends from here on is read in the next turn.
        unread = [each for each in asked if not each.done()]
        errors: list[ServerError] = []
        links, postgres_latency = outcome(postgres, errors) or (None, None)
        read = outcome(redis, errors) or (None, None, OtherQueue.UNUSED, None)
        queue, overview, other, last_operation = read
        status = Status(
            postgres=database.target,
            schema=database.schema or None,
            redis=redis_name,
            links=links,
            queue=overview,
            last_operation=last_operation,
            drift=outcome(drift, errors) if drift else None,
            errors=errors,
            other_queue=other,
            postgres_latency_ms=_milliseconds(postgres_latency),
            redis_latency_ms=_milliseconds(outcome(redis_latency, [])),
        )
        is_judged = queue and queue.choice.is_clear and other is not OtherQueue.WORKED_ON
        if drift is None and queue and overview and links and is_judged:
            drift = in_background(partial(count_drift, database, queue, overview.unfinished))
            asked[drift] = "both servers"
            unread.append(drift)
        left = until - time.monotonic()
        if not unread or left <= 0:
            break
        if not wait(unread, min(1, left), FIRST_COMPLETED).done:
            names = dict.fromkeys(asked[each] for each in unread)
            yield replace(status, waiting_for=list(names))
    if postgres in unread:
        errors.append(too_late(database.target, PostgresError))
    if redis in unread:
        errors.append(too_late(f"Redis at {redis_name}", RedisError))
    if drift in unread:
        errors.append(too_late(f"{database.target}, or Redis at {redis_name}", ServerError))
    yield status


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _read_links(database: Database) -> LinkOverview:
    with database.snapshot():
        return LinkOverview(
            counts=count_links(database),
            failed_by_app=count_by_app(database, FAILED_LINKS, 1, _GROUPS),
            failed_by_error=count_by_error(database, FAILED_LINKS, 1, _GROUPS),
            standby=read_standby(database),
        )


def count_drift(database: Database, queue: LinkQueue, jobs: int) -> DriftCounts | None:
    """Counts lost and stuck links with one look, where `doctor` takes two; None on a standby.

    `jobs`: the number of unfinished jobs, for a lower bound if there are too many links to look at.
    Raises PostgresError, RedisError.
    """
    if read_standby(database):  # its links may be older than their jobs
        return None
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
        if answer.state in {JobState.NONE, JobState.UNREADABLE}:
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
