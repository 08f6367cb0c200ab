"""The state of a Docora on one screen. Only reads."""

import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from docora_ops.actions.capacity import Capacity, capacity
from docora_ops.actions.checks import LONG_WAIT, TOO_SLOW_MS, CheckState, check_schedule
from docora_ops.actions.docora import Docora, warn_of_mute_workers, warn_of_other_workers
from docora_ops.actions.freshness import Freshness, read_freshness
from docora_ops.actions.holds import with_names
from docora_ops.actions.link_jobs import jobs_to_recover, look_at_jobs
from docora_ops.actions.trend import DAY, Trend, floor, trend_of_day
from docora_ops.database import Database
from docora_ops.database.drift import count_unfinished_links, unfinished_links
from docora_ops.database.link_reports import count_by_status, error_groups, links_by_group
from docora_ops.database.postgres_server import Standby, read_server
from docora_ops.error_groups import ErrorGroup
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import (
    BackendSource,
    JobEnd,
    OtherQueue,
    QueueOverview,
    backlog_of,
    refusal_of,
)
from docora_ops.links import (
    FAILED_LINKS,
    TRIED_LINKS,
    AppCount,
    LinkGroup,
    LinkRef,
    LinkStatus,
)
from docora_ops.operations import KnownOperation
from docora_ops.queue import LinkQueue
from docora_ops.queue.operation_records import read_operations
from docora_ops.queue.outcomes import PERIOD, read_counts
from docora_ops.queue.redis_client import describe
from docora_ops.queue.redis_server import measure

_TOO_SLOW = "check its load and the network"
_MOST = 5000
"""Most links whose jobs are looked at: more would take longer than the rest of the screen."""
_GROUPS = 4
"""Apps and errors to name, so that the whole screen fits 24 lines."""
_MEASURED_ERRORS = 20
"""Errors in metrics; limited, because each one creates a time series."""


@dataclass(frozen=True)
class DriftCounts:
    """The numbers of links without a live job.

    `metrics` looks once; `status` looks twice, and counts only links that both looks find.
    """

    lost: int  # pending for five minutes, without a live job
    stuck: int  # scanning, without a live job
    at_least: bool = False  # too many links to look at: `lost` is the excess of links over jobs


class HeadlineCode(StrEnum):
    """The subject of the first sentence of `status`: the first of these codes that applies."""

    SERVER_DOWN = "server_down"
    BACKEND_UNCLEAR = "backend_unclear"
    WRONG_WORKERS = "wrong_workers"  # only workers of the other backend run
    NO_WORKER = "no_worker"  # although links or jobs wait; with BullMQ, no worker is seen
    NO_JOBS_TAKEN = "no_jobs_taken"  # every worker refuses or is silent
    SUSPENDED = "suspended"
    NOT_SCHEDULED = "not_scheduled"
    NOTHING_MOVES = "nothing_moves"  # and more links are due than failed
    FAILED = "failed"  # of FAILED, DRIFT and OVERDUE, the one with most links
    DRIFT = "drift"
    OVERDUE = "overdue"
    BACKLOG = "backlog"
    SLOW = "slow"
    CIRCUITS_OPEN = "circuits_open"
    PENDING = "pending"  # some links are not in sync yet
    IN_SYNC = "in_sync"
    NO_LINKS = "no_links"

    @property
    def is_trouble(self) -> bool:
        """Tells whether somebody has to act."""
        well = {HeadlineCode.PENDING, HeadlineCode.IN_SYNC, HeadlineCode.NO_LINKS}
        return self not in well


@dataclass(frozen=True)
class Headline:
    """The worst problem of a Docora, or its state if it has none.

    links: the number of affected links; with `backlog`, of waiting jobs; with `in_sync`, of all
        links. None if not counted.
    seconds: a time that depends on `code`; None if unknown:
        - `failed`: since the earliest of the last good scans of links with the most common error.
        - `overdue`, `pending`, `in_sync`: since the earliest of the last good scans of synced and
          overdue links.
        - `suspended`: since the suspension.
        - `not_scheduled`: since the last pass of `schedule`.
        - `backlog`: how long the oldest job has waited.
        - `slow`: how long a scan of all links takes.
        - `wrong_workers`, `no_worker`, `no_jobs_taken`, `nothing_moves`: since the last good scan.
    """

    code: HeadlineCode
    links: int | None = None
    seconds: int | None = None


@dataclass(frozen=True)
class RecentEnds:
    """The number of snapshots that ended in the last 10 to 20 minutes, by outcome."""

    since_at: datetime
    by_outcome: Mapping[JobEnd, int]


@dataclass(frozen=True)
class Status:
    """The state of a Docora. The fields of a server that is down are None.

    `failed_apps`, `failed_errors`: the number of apps with failed links, and of different errors.
    `failed_by_app`, `failed_by_error`: the four apps, and the four errors, with the most failed
    links; for metrics, all apps and 20 errors.
    `good_until_at`, `good_until_seconds`: the latest of the failed links' last good scans, and the
    seconds since; `oldest_scan_seconds`: the seconds since the earliest of these scans.
    `tried_by_error`: the four most common errors of links whose last try failed and that are tried
    again.
    `recent_ends`, `failures`: None with BullMQ, or if no worker has recorded an outcome for 8 days.
    `capacity`: None with BullMQ.
    `drift`: also None if workers of the other backend run, if the backend is unclear, or on a
    standby.
    """

    postgres: str  # names the server and the database
    redis: str
    schema: str | None = None  # of Docora's tables
    postgres_latency_ms: int | None = None
    redis_latency_ms: int | None = None
    links_by_status: Mapping[LinkStatus, int] | None = None
    open_circuits: int | None = None
    pending_with_open_circuit: int | None = None  # links
    failed_until_retry: int | None = None  # links that no scheduler queues
    failed_apps: int | None = None
    failed_by_app: Sequence[AppCount] | None = None
    failed_errors: int | None = None
    failed_by_error: Sequence[ErrorGroup] | None = None
    tried_by_error: Sequence[ErrorGroup] | None = None
    good_until_at: datetime | None = None
    good_until_seconds: int | None = None
    oldest_scan_seconds: int | None = None
    standby: Standby | None = None  # None on a primary
    queue: QueueOverview | None = None
    last_operation: KnownOperation | None = None
    recent_ends: RecentEnds | None = None
    failures: Trend | None = None
    capacity: Capacity | None = None
    drift: DriftCounts | None = None
    freshness: Freshness | None = None
    schedule_state: CheckState | None = None  # of the last pass of `schedule`; None if not judged
    headline: Headline = Headline(HeadlineCode.SERVER_DOWN)

    @property
    def backend_ok(self) -> bool:
        """Tells whether the backend is clear, and no worker of the other backend is running."""
        return (
            self.queue is not None
            and self.queue.backend_source is not BackendSource.UNCLEAR
            and self.queue.other_queue is not OtherQueue.WORKED_ON
        )


def read_status(
    docora: Docora, *, for_metrics: bool = False, by_app: bool = True, by_error: bool = True
) -> tuple[Status, Sequence[ServerError]]:
    """Returns the available state of both servers, and the errors of unusable servers.

    for_metrics: name every app with failed links, and up to 20 errors. Look for lost and stuck
        links only once, not twice. Leave out the last operation, links that are tried again, the
        names of held apps, the state of the last pass, and what the record of outcomes tells.
    by_app, by_error: count the failed links by app, and by error. If False, the fields of these
        counts are 0 or empty.
    """
    database, client = docora.database, docora.redis
    errors: list[ServerError] = []
    lost: RedisError | None = None
    status = Status(database.server, describe(client))
    most_apps, most_errors = (None, _MEASURED_ERRORS) if for_metrics else (_GROUPS, _GROUPS)
    with keeping_errors(errors):
        latency, _ = measure(client)
        status = replace(status, redis_latency_ms=round(latency * 1000))
        if latency * 1000 > TOO_SLOW_MS:
            raise RedisError(f"Redis at {status.redis} is too slow", hint=_TOO_SLOW)
        status = replace(status, queue=docora.queue_to_read.overview(1))
        if not for_metrics:
            last = next(iter(read_operations(docora.redis)), None)
            status = replace(status, last_operation=last)
    with keeping_errors(errors):
        with database.consistent_reads():
            server = read_server(database)
            status = replace(
                status,
                postgres=database.server,
                schema=database.schema,
                postgres_latency_ms=round(server.latency * 1000),
                standby=server.standby,
            )
            if server.latency * 1000 > TOO_SLOW_MS:
                raise PostgresError(
                    f"Postgres database {database.server} is too slow", hint=_TOO_SLOW
                )
            counts = count_by_status(database)
            failed_apps = links_by_group(database, LinkGroup.APP, FAILED_LINKS) if by_app else []
            groups = error_groups(database, FAILED_LINKS) if by_error else []
            tried = [] if for_metrics else error_groups(database, TRIED_LINKS)
        known = [group for group in groups if group.good_until_seconds is not None]
        latest = min(known, key=lambda group: group.good_until_seconds or 0, default=None)
        freshness, lost = read_freshness(docora, status.queue)
        status = replace(
            status,
            freshness=freshness,
            links_by_status=counts.by_status,
            open_circuits=counts.open_circuits,
            pending_with_open_circuit=counts.pending_with_open_circuit,
            failed_until_retry=counts.failed_until_retry,
            failed_apps=len(failed_apps),
            failed_by_app=[AppCount(*row) for row in failed_apps[:most_apps]],
            failed_errors=len(groups),
            failed_by_error=groups[:most_errors],
            tried_by_error=tried[:_GROUPS],
            good_until_at=latest.good_until_at if latest else None,
            good_until_seconds=latest.good_until_seconds if latest else None,
            oldest_scan_seconds=max((it.oldest_scan_seconds or 0 for it in known), default=None),
        )
    if lost:
        errors.append(lost)
    with keeping_errors(errors):
        if (overview := status.queue) and not lost:
            if not for_metrics:
                status = _beside_queue(docora, status, overview)
            # The links of a standby may be older than their jobs.
            if status.freshness and status.backend_ok and not status.standby:
                status = replace(status, drift=count_drift(docora, overview, twice=not for_metrics))
    errors.sort(key=lambda error: isinstance(error, RedisError))
    return replace(status, headline=headline_of(status)), errors


def _beside_queue(docora: Docora, status: Status, overview: QueueOverview) -> Status:
    """Adds the names of held apps, `schedule_state`, and what is read from the record of outcomes.

    Warns of workers of the other backend, and of workers that record no outcomes.
    """
    queue, fresh = docora.queue_to_read, status.freshness
    if overview.workers:  # if only others run, the headline says so
        warn_of_other_workers(docora)
    if fresh and overview.held:
        overview = replace(overview, held=with_names(docora.database, overview.held))
        status = replace(status, queue=overview)
    now = overview.read_at
    if now is None or not queue.can_push:
        return status
    if queue.choice.is_clear and not overview.has_only_others:
        check = check_schedule(overview.last_pass_seconds, fresh, docora.settings)
        status = replace(status, schedule_state=check.state)
    record = read_counts(docora.redis, now - timedelta(seconds=DAY), now)
    if fresh:
        status = replace(status, capacity=capacity(record, fresh, overview, docora.settings))
    if record.begin is None:
        return status
    mute = [worker.name for worker in overview.workers if not worker.may_record]
    warn_of_mute_workers(docora, mute)
    since = floor(now, PERIOD) - timedelta(seconds=PERIOD)
    counts: Counter[JobEnd] = Counter()
    for count in record.counts:
        counts[count.outcome] += count.count if count.started_at >= since else 0
    return replace(
        status,
        recent_ends=RecentEnds(since, {end: counts[end] for end in JobEnd if counts[end]}),
        failures=trend_of_day(record, now),
    )


def headline_of(status: Status) -> Headline:
    """Returns the worst problem, or the state if there is none."""
    queue, freshness, counts = status.queue, status.freshness, status.links_by_status
    if queue is None or freshness is None or counts is None:
        return Headline(HeadlineCode.SERVER_DOWN)
    stop = _stop_of(queue, freshness, counts)
    if stop is not None:
        return stop
    drift = status.drift or DriftCounts(0, 0)
    begun = next((group.oldest_scan_seconds for group in status.failed_by_error or ()), None)
    worst = max(
        Headline(HeadlineCode.FAILED, counts[LinkStatus.FAILED], begun),
        Headline(HeadlineCode.DRIFT, drift.lost + drift.stuck),
        Headline(HeadlineCode.OVERDUE, freshness.overdue, freshness.oldest_scan_seconds),
        key=lambda headline: headline.links or 0,
    )
    if worst.links:
        return worst
    waited = queue.oldest_waiting_seconds or 0
    if backlog_of(queue) or waited > LONG_WAIT:
        return Headline(HeadlineCode.BACKLOG, queue.waiting, waited)
    if freshness.is_slow:
        return Headline(HeadlineCode.SLOW, seconds=freshness.slow_cycle_seconds)
    if status.open_circuits:
        return Headline(HeadlineCode.CIRCUITS_OPEN, status.pending_with_open_circuit)
    links, synced = sum(counts.values()), counts[LinkStatus.SYNCED]
    code = HeadlineCode.PENDING if links > synced else HeadlineCode.IN_SYNC
    if not links:
        code = HeadlineCode.NO_LINKS
    return Headline(code, links - synced or links, freshness.oldest_scan_seconds)


def _stop_of(
    queue: QueueOverview, freshness: Freshness, counts: Mapping[LinkStatus, int]
) -> Headline | None:
    """Returns why no link is scanned; None if links are scanned, or need not be."""
    last = freshness.last_scanned_seconds
    refusal, suspension = refusal_of(queue.workers), queue.suspension
    if queue.backend_source is BackendSource.UNCLEAR:
        return Headline(HeadlineCode.BACKEND_UNCLEAR)
    if queue.has_only_others:
        return Headline(HeadlineCode.WRONG_WORKERS, seconds=last)
    if not queue.workers and (freshness.due or freshness.overdue or queue.waiting):
        return Headline(HeadlineCode.NO_WORKER, seconds=last)
    if refusal and refusal.troubles and not queue.takes_jobs:
        return Headline(HeadlineCode.NO_JOBS_TAKEN, seconds=last)
    if suspension:
        at, now = suspension.suspended_at, queue.read_at
        since = max(0, int((now - at).total_seconds())) if at and now else None
        return Headline(HeadlineCode.SUSPENDED, seconds=since)
    if freshness.schedule_stopped:
        return Headline(HeadlineCode.NOT_SCHEDULED, freshness.due, queue.last_pass_seconds)
    if freshness.nothing_moves and freshness.due > counts[LinkStatus.FAILED]:
        return Headline(HeadlineCode.NOTHING_MOVES, freshness.due, last)
    return None


@contextmanager
def keeping_errors(errors: list[ServerError]) -> Iterator[None]:
    """Ends the block if a server fails, and adds the error to `errors`."""
    try:
        yield
    except (PostgresError, RedisError) as error:
        errors.append(error)


def count_drift(docora: Docora, overview: QueueOverview, *, twice: bool = False) -> DriftCounts:
    """Counts lost and stuck links; returns a lower bound if there are too many links to look at.

    Unlike `doctor`, trusts the status of waiting jobs instead of searching for them. Leaves out the
    links of held apps, which need no job until the release, and links that workers will soon
    recover.

    twice: look again after `DOCORA_OPS_DRIFT_GRACE` seconds, and count only links that both looks
        find, because a link that a worker has just begun looks lost for a moment.

    Raises PostgresError, RedisError.
    """
    database, queue = docora.database, docora.queue_to_read
    held = [app.app_id for app in overview.held]
    to_recover = jobs_to_recover(queue, overview)
    first = _links_without_job(database, queue, held)
    if first is None:
        expired = max(0, len(to_recover) - overview.active)  # the others are running jobs
        jobs = overview.unfinished + expired
        too_many = max(0, count_unfinished_links(database, held) - jobs)
        if too_many and twice:
            time.sleep(docora.settings.drift_grace)
            jobs = queue.overview(1).unfinished + expired
            too_many = min(too_many, max(0, count_unfinished_links(database, held) - jobs))
        return DriftCounts(too_many, 0, at_least=True)
    first = {ref: status for ref, status in first.items() if ref.job_id not in to_recover}
    if first and twice:
        time.sleep(docora.settings.drift_grace)
        first = _links_without_job(database, queue, held, first) or {}
    counts = Counter(first.values())
    return DriftCounts(counts[LinkStatus.PENDING_SNAPSHOT], counts[LinkStatus.SCANNING])


def _links_without_job(
    database: Database,
    queue: LinkQueue,
    held: Sequence[str],
    only: Container[LinkRef] | None = None,
) -> dict[LinkRef, str] | None:
    """Returns the lost and stuck links of one look, with their statuses.

    Returns None if there are too many links to look at.

    held: ids of apps to leave out.
    only: consider only these links.
    """
    limit = _MOST + 1 if queue.can_push and only is None else None
    with database.consistent_reads():
        only_stuck = not queue.can_push
        links = unfinished_links(database, only_stuck=only_stuck, limit=limit, held=held)
        if len(links) == limit:
            return None
        statuses = {ref: status for ref, status in links if only is None or ref in only}
        for ref, answer in look_at_jobs(database, queue, list(statuses)):
            if answer.state.is_live or queue.docora_picks_up(statuses[ref], answer):
                del statuses[ref]
    return statuses
