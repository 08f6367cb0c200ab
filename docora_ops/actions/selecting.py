"""Choosing the links of a bulk operation."""

from __future__ import annotations

from docora_ops.actions.lookup import resolve_app
from docora_ops.database import Database, Selection
from docora_ops.database.link_rows import count_deliveries, count_deliveries_of_app
from docora_ops.database.selection import select_due, select_failed, select_of_app
from docora_ops.links import App, FailedFilter, LinkRef


def failed_links(
    database: Database,
    *,
    app: str | None = None,
    error: str | None = None,
    limit: int | None = None,
    skip_open_circuits: bool = False,
) -> Selection:
    """The failed links, of one app or whose error contains a text, fixed at this moment.

    Raises NotFoundError, AmbiguousError, PostgresError.
    """
    which = FailedFilter(
        app_id=None if app is None else resolve_app(database, app).app_id,
        error=error,
        limit=limit,
        skip_open_circuits=skip_open_circuits,
    )
    return select_failed(database, which)


def links_of_app(database: Database, app: str) -> tuple[App, Selection, int]:
    """An app, every link of it, and how many files it has received. Raises the same."""
    found = resolve_app(database, app)
    files = count_deliveries_of_app(database, found.app_id)
    return found, select_of_app(database, found.app_id), files


def due_links(database: Database, rescan_interval_ms: int) -> Selection:
    """The links that a job is due for, fixed at this moment. Raises PostgresError.

    Pending links, links in sync whose last scan is longer ago than the interval, and failed links
    whose repository's circuit was not opened since git last succeeded; no link of a repository
    whose circuit is open.
    """
    return select_due(database, rescan_interval_ms)


def files_received(database: Database, ref: LinkRef) -> int:
    """How many files of the repository the app has received. Raises PostgresError."""
    return count_deliveries(database, [ref])
