"""The state of a Docora: for the screen of `status`, and for the metrics. Only reads."""

import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from docora_ops.actions.docora import Docora
from docora_ops.actions.freshness import beside_queue, judge_pass, links_freshness
from docora_ops.actions.link_lists import error_groups
from docora_ops.actions.look import look_at_jobs
from docora_ops.database import Database
from docora_ops.database.link_reports import count_by_status, links_by_group
from docora_ops.database.link_rows import count_unfinished_links, unfinished_links
from docora_ops.database.postgres_server import read_latency, read_standby
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import Backend, NoJobCode, OtherQueue, QueueOverview
from docora_ops.links import FAILED_LINKS, AppCount, LinkGroup, LinkRef, LinkStatus
from docora_ops.overview import TOO_SLOW_MS, DriftCounts, Metrics, Status
from docora_ops.queue import LinkQueue
from docora_ops.queue.redis_client import describe, latency

_WORKER_STATES = ("started", "idle", "busy", "suspended")
"""RQ's words."""
_TOO_SLOW = "check its load and the network"
_MOST = 5000
"""Links whose jobs are looked at: more take longer than the rest of a screen."""
_GROUPS = 4
"""Apps and errors that are named: the whole screen fits 24 lines."""
_MEASURED_ERRORS = 20
"""Errors that become metrics: each is a time series of its own."""


def read_status(docora: Docora) -> tuple[Status, Sequence[ServerError]]:
    """Returns the state of both servers as far as available, and errors of unusable servers."""
    database, client = docora.database, docora.redis
    errors: list[ServerError] = []
    status = Status(database.server, describe(client), docora.settings.target)
    with _keeping_errors(errors):
        milliseconds = round(read_latency(database) * 1000)
        status = replace(status, postgres=database.server, postgres_latency_ms=milliseconds)
        if milliseconds > TOO_SLOW_MS:
            raise PostgresError(f"Postgres database {database.server} is too slow", hint=_TOO_SLOW)
        with database.snapshot():
            counts = count_by_status(database)
            failed_apps = links_by_group(database, LinkGroup.APP, FAILED_LINKS)
            groups = error_groups(database, FAILED_LINKS)
            freshness = links_freshness(docora, counts)
            standby = read_standby(database)
        known = [each for each in groups if each.good_until_seconds is not None]
        latest = min(known, key=lambda each: each.good_until_seconds or 0, default=None)
        status = replace(
            status,
            freshness=freshness,
            links_by_status=counts.by_status,
            open_circuits=counts.open_circuits,
            pending_with_open_circuit=counts.pending_with_open_circuit,
            failed_apps=len(failed_apps),
            failed_by_app=[AppCount(*row) for row in failed_apps[:_GROUPS]],
            failed_errors=len(groups),
            failed_by_error=groups[:_GROUPS],
            good_until_at=latest.good_until_at if latest else None,
            good_until_seconds=latest.good_until_seconds if latest else None,
            standby=standby,
        )
    with _keeping_errors(errors):
        milliseconds = round(latency(client) * 1000)
        status = replace(status, redis_latency_ms=milliseconds)
        if milliseconds > TOO_SLOW_MS:
            raise RedisError(f"Redis at {status.redis} is too slow", hint=_TOO_SLOW)
        queue = docora.queue_to_read
        overview, other = queue.overview(1), queue.read_other()
        last = next(iter(docora.store.read_all()), None)
        status = replace(status, queue=overview, other_queue=other, last_operation=last)
        if fresh := status.freshness:
            status = replace(status, freshness=beside_queue(docora, fresh, overview))
        is_rq = overview.backend is Backend.RQ and queue.choice.is_clear
        if is_rq and not status.has_only_others:
            seconds, fresh = overview.last_pass_seconds, status.freshness
            state = judge_pass(seconds, fresh, docora.settings)
            status = replace(status, schedule_state=state)
        is_judged = queue.choice.is_clear and other is not OtherQueue.WORKED_ON
        if status.links_by_status and is_judged:
            status = replace(status, drift=count_drift(docora, overview, twice=True))
    return replace(status, schema=database.schema or None), errors


def read_metrics(
    docora: Docora, *, by_app: bool = False, by_error: bool = False
) -> tuple[Metrics, Sequence[ServerError]]:
    """Returns the metrics of both servers, as far as available, and the errors of unusable servers.

    A server counts as down if it is unreachable, refuses, or is too slow, even if only midway.
    `by_app`: count the failed links of each app. `by_error`: count them by folded error.
    """
    start, database = time.monotonic(), docora.database
    links = failed = groups = overview = backend_ok = drift = freshness = None
    errors: list[ServerError] = []
    # In one transaction, so that the failed links of the apps and those of the errors add up.
    with _keeping_errors(errors), database.snapshot():
        links = count_by_status(database)
        freshness = links_freshness(docora, links)
        if by_app:
            rows = links_by_group(database, LinkGroup.APP, FAILED_LINKS)
            failed = [AppCount(*row) for row in rows]
        if by_error:
            groups = error_groups(database, FAILED_LINKS)[:_MEASURED_ERRORS]
    with _keeping_errors(errors):
        # A cached property, as the next line's, holds up other threads in Python 3.11.
        latency(docora.redis)
        queue = docora.queue_to_read
        overview = queue.overview(limit=1)
        backend_ok = queue.choice.is_clear and queue.read_other() is not OtherQueue.WORKED_ON
        if freshness is not None:
            freshness = beside_queue(docora, freshness, overview)
        if backend_ok and not errors:
            drift = count_drift(docora, overview)
    if any(isinstance(error, PostgresError) for error in errors):
        links = failed = groups = freshness = None
    if any(isinstance(error, RedisError) for error in errors):
        overview = backend_ok = None
    jobs = (
        None
        if overview is None
        else {
            "waiting": overview.waiting,
            "active": overview.active,
            "delayed": overview.delayed,
            "completed": overview.completed_jobs,
            "failed": overview.failed_jobs,
        }
    )
    metrics = Metrics(
        postgres_up=links is not None,
        redis_up=overview is not None,
        links_by_status=links.by_status if links else None,
        failed_by_app=failed,
        failed_by_error=groups,
        open_circuits=links.open_circuits if links else None,
        queue_name=overview.queue_name if overview else None,
        jobs_by_status=jobs,
        oldest_waiting_seconds=overview.oldest_waiting_seconds if overview else None,
        workers_by_state=_workers_by_state(overview) if overview else None,
        workers_by_no_job_reason=_workers_by_no_job_reason(overview) if overview else None,
        backend_ok=backend_ok,
        drift=drift,
        freshness=freshness,
        last_pass_at=overview.last_pass_at if overview else None,
        scrape_seconds=round(time.monotonic() - start, 3),
        target=docora.settings.target,
    )
    return metrics, errors


def _workers_by_state(queue: QueueOverview) -> dict[str, int]:
    """Counts the live workers by state.

    A state that is not RQ's counts as unknown. A worker that has missed a heartbeat counts as
    silent, regardless of its state.
    """
    counts = dict.fromkeys((*_WORKER_STATES, "unknown", "silent"), 0)
    for worker in queue.workers:
        state = worker.state if worker.state in _WORKER_STATES else "unknown"
        counts[state if worker.silent_seconds is None else "silent"] += 1
    return counts


def _workers_by_no_job_reason(queue: QueueOverview) -> dict[str, int]:
    """Counts the live workers that take no job by the code of their reason."""
    counts = dict.fromkeys(map(str, NoJobCode), 0)
    for worker in queue.workers:
        if worker.no_job_reason is not None:
            counts[worker.no_job_reason.code] += 1
    return counts


@contextmanager
def _keeping_errors(errors: list[ServerError]) -> Iterator[None]:
    """Ends the block on an error of a server, and adds the error to `errors`."""
    try:
        yield
    except (PostgresError, RedisError) as error:
        errors.append(error)


def count_drift(
    docora: Docora, overview: QueueOverview, *, twice: bool = False
) -> DriftCounts | None:
    """Counts lost and stuck links; of too many links, tells a lower bound. None on a standby.

    Unlike `doctor`, believes a job that reads as waiting: no list is searched.

    twice: a link that a worker has just begun looks lost for a moment. So if any are found, look
        again `DOCORA_OPS_DRIFT_GRACE` seconds later, and count what both looks have found.

    Raises PostgresError, RedisError.
    """
    database, queue = docora.database, docora.queue_to_read
    if read_standby(database):  # its links may be older than their jobs
        return None
    first = _links_without_job(database, queue)
    if first is None:
        too_many = max(0, count_unfinished_links(database) - overview.unfinished)
        if too_many and twice:
            time.sleep(docora.settings.drift_grace)
            jobs = queue.overview(1).unfinished
            too_many = min(too_many, max(0, count_unfinished_links(database) - jobs))
        return DriftCounts(too_many, 0, at_least=True)
    if first and twice:
        time.sleep(docora.settings.drift_grace)
        first = _links_without_job(database, queue, first) or {}
    found = Counter(first.values())
    return DriftCounts(found[LinkStatus.PENDING_SNAPSHOT], found[LinkStatus.SCANNING])


def _links_without_job(
    database: Database, queue: LinkQueue, only: Container[LinkRef] | None = None
) -> dict[LinkRef, str] | None:
    """Returns the lost and stuck links that one look finds, with their statuses.

    Returns None if there are too many links to look at each.

    only: leave out all other links.
    """
    limit = None if queue.is_docoras else _MOST + 1
    links = unfinished_links(database, only_stuck=queue.is_docoras, limit=limit)
    if only is None and limit and len(links) == limit:
        return None
    statuses = {ref: status for ref, status in links if only is None or ref in only}
    for ref, answer in look_at_jobs(database, queue, list(statuses)):
        if answer.state.is_live or queue.docora_picks_up(statuses[ref], answer):
            del statuses[ref]
    return statuses
