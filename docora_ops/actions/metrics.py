"""Reading the numbers for a monitoring system."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from docora_ops.actions.docora import Docora
from docora_ops.actions.status import count_drift
from docora_ops.database.counts import count_links
from docora_ops.database.link_lists import links_by_app
from docora_ops.errors import PostgresError, RedisError, ServerError
from docora_ops.jobs import OtherQueue
from docora_ops.links import FAILED_LINKS
from docora_ops.metrics import Metrics, Server


def read_metrics(docora: Docora, *, by_app: bool) -> Metrics:
    """Reads the numbers of both servers, or of the one that is up. `by_app`: failed links, too.

    A server counts as down if it is unreachable,
    refuses, or is too slow, even if only midway.
    """
    start, database = time.monotonic(), docora.database
    links = failed = overview = backend_ok = drift = None
    errors: dict[Server, ServerError] = {}
    # In one transaction, so that the failed links of the apps add up.
    with _keeping_errors(errors), database.snapshot():
        links = count_links(database)
        failed = links_by_app(database, FAILED_LINKS, limit=None, offset=0)[1] if by_app else None
    with _keeping_errors(errors):
        queue = docora.queue_to_read
        overview = queue.overview(limit=1)
        backend_ok = queue.choice.is_clear and queue.read_other() is not OtherQueue.WORKED_ON
        if backend_ok and not errors:
            drift = count_drift(database, queue, overview.unfinished)
    return Metrics(
        links=None if Server.POSTGRES in errors else links,
        failed_by_app=None if Server.POSTGRES in errors else failed,
        queue=None if Server.REDIS in errors else overview,
        backend_ok=None if Server.REDIS in errors else backend_ok,
        drift=drift,
        scrape_seconds=round(time.monotonic() - start, 3),
        errors=errors,
    )


@contextmanager
def _keeping_errors(errors: dict[Server, ServerError]) -> Iterator[None]:
    """Adds an error of a server inside the block to `errors`, and ends the block."""
    try:
        yield
    except PostgresError as error:
        errors[Server.POSTGRES] = error
    except RedisError as error:
        errors[Server.REDIS] = error
