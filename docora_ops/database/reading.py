"""Reading failed links and link histories, with secrets masked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from docora_ops.database.link_rows import FAILED
from docora_ops.database.postgres import Database
from docora_ops.failed_links import FailedLink
from docora_ops.link_details import LinkHistory, Snapshot
from docora_ops.links import AppCount, FailedFilter, LinkRef
from docora_ops.text import mask, mask_cut, mask_url

_LONGEST_ERROR = 1900
"""Characters of an error in a list: git can write a megabyte."""

COUNT_FAILED = f"SELECT count(*) FROM app_repositories l WHERE {FAILED}"

# Selects the page by the index on the two ids before any join.
FAILED_PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT l.id FROM app_repositories l WHERE {FAILED}
    ORDER BY l.app_id, l.repository_id LIMIT %(limit)s OFFSET %(offset)s
)
SELECT l.app_id, a.app_name, l.repository_id, r.owner || '/' || r.name, r.github_url,
    left(l.last_error, %(longest)s), coalesce(length(l.last_error) > %(longest)s, false),
    coalesce(l.last_scanned_at, l.created_at), l.retry_count, l.last_scanned_at,
    r.circuit_open_until
FROM page JOIN app_repositories l USING (id)
JOIN apps a USING (app_id) JOIN repositories r USING (repository_id)
ORDER BY l.app_id, l.repository_id
"""

FAILED_BY_APP = f"""
SELECT app_id, a.app_name, links
FROM (SELECT l.app_id, count(*) AS links FROM app_repositories l WHERE {FAILED} GROUP BY 1) counted
JOIN apps a USING (app_id)
ORDER BY links DESC, app_id
"""

FAILED_BY_ERROR = f"""
SELECT l.app_id, left(l.last_error, %(longest)s) AS error, count(*)
FROM app_repositories l WHERE {FAILED} GROUP BY l.app_id, error
"""

LINK_HISTORY = """
SELECT l.created_at, l.last_scanned_at, r.consecutive_failures, d.files, d.last_delivered_at
FROM app_repositories l JOIN repositories r USING (repository_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS files, max(delivered_at) AS last_delivered_at FROM app_delivered_files
    WHERE app_id = l.app_id AND repository_id = l.repository_id
) d
WHERE l.id = %(id)s
"""

LAST_SNAPSHOT = """
SELECT commit_sha, branch, scanned_at,
    (SELECT count(*) FROM snapshot_files WHERE snapshot_id = s.id) AS files
FROM repository_snapshots s WHERE repository_id = %(repository_id)s
"""


def failed_page(
    database: Database, which: FailedFilter, *, limit: int, offset: int
) -> tuple[int, list[FailedLink]]:
    """Returns the number of failed links and one page of them, without the states of their jobs."""
    parameters = _parameters(which)
    with database.snapshot():
        row = database.row(COUNT_FAILED, parameters)
        rows = database.rows(
            FAILED_PAGE, {**parameters, "limit": limit, "offset": offset, "longest": _LONGEST_ERROR}
        )
    return int(row[0]) if row else 0, [_without_secrets(FailedLink(*row)) for row in rows]


def failed_by_app(database: Database, which: FailedFilter) -> list[AppCount]:
    """Counts the failed links of each app, most links first."""
    rows = database.rows(FAILED_BY_APP, _parameters(which))
    return [AppCount(*row) for row in rows]


def failed_by_error(
    database: Database, which: FailedFilter, longest: int
) -> Iterator[tuple[str, str | None, int]]:
    """Yields app id, error, cut to `longest` characters, and number of links, in no order.

    Read all before the next statement of this connection.
    """
    parameters = _parameters(which) | {"longest": longest}
    rows = database.stream(FAILED_BY_ERROR, parameters)
    return ((app_id, error, links) for app_id, error, links in rows)


def link_history(database: Database, ref: LinkRef) -> LinkHistory:
    """Returns the history of a link that exists."""
    [row] = database.rows(LINK_HISTORY, {"id": ref.id})
    snapshot = database.row(LAST_SNAPSHOT, {"repository_id": ref.repository_id})
    fields = [*row, Snapshot(*snapshot) if snapshot else None]
    return LinkHistory(*fields)


def _without_secrets(link: FailedLink) -> FailedLink:
    error = link.error_message
    if error:
        error = mask_cut(error) if link.error_message_cut else mask(error)
    return replace(link, error_message=error, github_url=mask_url(link.github_url))


def _parameters(which: FailedFilter) -> dict[str, object]:
    return {"app_id": which.app_id, "error": which.error}
