"""The metrics of a Docora for Prometheus. Only reads."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.actions.docora import Docora
from docora_ops.actions.freshness import Freshness, beside_queue, links_freshness, read_held
from docora_ops.actions.status import DriftCounts, count_drift, keeping_errors
from docora_ops.database.link_reports import (
    LinkCounts,
    count_by_status,
    error_groups,
    links_by_group,
)
from docora_ops.database.postgres_server import read_standby
from docora_ops.error_groups import ErrorGroup
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import OtherQueue, QueueOverview
from docora_ops.links import FAILED_LINKS, AppCount, LinkGroup
from docora_ops.queue.redis_server import measure

_MEASURED_ERRORS = 20
"""Errors to report; limited, because each one creates a time series."""


@dataclass(frozen=True)
class Metrics:
    """The numbers at one moment. The numbers of a server that is down are None.

    A server is up if it answered and permitted everything. `failed_by_app` and `failed_by_error`
    are also None unless asked for; `failed_by_error` has only the 20 most frequent errors. `drift`
    is None if either server is down, if `backend_ok` is False, or on a standby.
    """

    links: LinkCounts | None
    failed_by_app: Sequence[AppCount] | None
    failed_by_error: Sequence[ErrorGroup] | None
    queue: QueueOverview | None
    backend_ok: bool | None  # False if workers of the other backend run, or the backend is unclear
    drift: DriftCounts | None
    freshness: Freshness | None
    scrape_seconds: float
    target: str | None = None


def read_metrics(
    docora: Docora, *, by_app: bool = False, by_error: bool = False
) -> tuple[Metrics, Sequence[ServerError]]:
    """Returns the available metrics of both servers, and the errors of unusable servers.

    A server counts as down if it is unreachable, denies access or is too slow at any point.

    by_app: also count the failed links of each app.
    by_error: also count the failed links by error, with paths, numbers and ids replaced by `*`.
    """
    start, database = time.monotonic(), docora.database
    links = failed = groups = overview = backend_ok = drift = freshness = standby = None
    errors: list[ServerError] = []
    held, lost = read_held(docora)
    # One transaction, so that the counts by app and by error add up.
    with keeping_errors(errors), database.snapshot():
        links = count_by_status(database)
        freshness = links_freshness(docora, held)
        standby = read_standby(database)
        if by_app:
            rows = links_by_group(database, LinkGroup.APP, FAILED_LINKS)
            failed = [AppCount(*row) for row in rows]
        if by_error:
            groups = error_groups(database, FAILED_LINKS)[:_MEASURED_ERRORS]
    with keeping_errors(errors):
        if lost:
            raise lost
        # Connects first: in Python 3.11, a cached property blocks other threads while it is read.
        measure(docora.redis)
        queue = docora.queue_to_read
        overview = queue.overview(limit=1)
        backend_ok = queue.choice.is_clear and queue.use.other is not OtherQueue.WORKED_ON
        if freshness is not None:
            freshness = beside_queue(docora, freshness, overview)
        if backend_ok and not (errors or standby):  # links of a standby may be older than the jobs
            drift = count_drift(docora, overview)
    if any(isinstance(error, PostgresError) for error in errors):
        links = failed = groups = freshness = None
    if any(isinstance(error, RedisError) for error in errors):
        overview = backend_ok = None
    seconds = round(time.monotonic() - start, 3)
    target = docora.settings.target
    return (
        Metrics(links, failed, groups, overview, backend_ok, drift, freshness, seconds, target),
        errors,
    )
