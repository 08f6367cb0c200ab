"""Listing and counting links, with secrets masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from psycopg.rows import TupleRow

from docora_ops.database.link_filter import LINKS, MATCHES, filter_parameters
from docora_ops.database.postgres import Database
from docora_ops.link_lists import AppSummary, LinkSort, ListedLink, RepositoryCount, StatusCount
from docora_ops.links import AppCount, LinkFilter
from docora_ops.text import mask, mask_cut, mask_url

_LONGEST_ERROR = 1900
"""Characters of an error in a list: git can write a megabyte."""

COUNT_LINKS = f"SELECT count(*) FROM {LINKS} WHERE {MATCHES}"

_IDS = "l.app_id, l.repository_id"
_ORDERS = {
    LinkSort.APP: _IDS,
    LinkSort.ERROR: f'left(l.last_error, 300) COLLATE "C" NULLS LAST, {_IDS}',
    LinkSort.RETRIES: f"l.retry_count DESC, {_IDS}",
    LinkSort.LAST_SCAN: f"l.last_scanned_at NULLS FIRST, {_IDS}",
}

# Selects the page before any join: in the order of the ids, by the index on them.
_LINKS_PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT l.id FROM {LINKS} WHERE {MATCHES}
    ORDER BY {{order}} LIMIT %(limit)s OFFSET %(offset)s
)
SELECT l.app_id, a.app_name, l.repository_id, r.owner || '/' || r.name, r.github_url, l.status,
    left(l.last_error, %(longest)s), coalesce(length(l.last_error) > %(longest)s, false),
    l.retry_count, l.last_scanned_at,
    r.circuit_open_until, coalesce(r.circuit_open_until > now(), false)
FROM page JOIN docora.app_repositories l USING (id)
JOIN docora.apps a USING (app_id) JOIN docora.repositories r USING (repository_id)
ORDER BY {{order}}
"""

LINKS_PAGES = {sort: _LINKS_PAGE.format(order=order) for sort, order in _ORDERS.items()}

# The total is there even if the page is empty.
_GROUPS_PAGE = f"""
WITH counted AS MATERIALIZED (
    SELECT l.{{key}} AS key, count(*) AS links FROM {LINKS} WHERE {MATCHES} GROUP BY 1
), page AS MATERIALIZED (
    SELECT key, links FROM counted ORDER BY links DESC, key LIMIT %(limit)s OFFSET %(offset)s
)
SELECT total, {{columns}}, links
FROM (SELECT count(*) AS total FROM counted) totals LEFT JOIN {{page}} ON true
ORDER BY links DESC, key
"""

LINKS_BY_APP = _GROUPS_PAGE.format(
    key="app_id", columns="key, app_name", page="(page JOIN docora.apps ON app_id = key)"
)
LINKS_BY_REPOSITORY = _GROUPS_PAGE.format(
    key="repository_id",
    columns="key, owner || '/' || name",
    page="(page JOIN docora.repositories ON repository_id = key)",
)
LINKS_BY_STATUS = _GROUPS_PAGE.format(key="status", columns="key", page="page")

LINKS_BY_ERROR = f"""
SELECT l.app_id, left(l.last_error, %(longest)s) AS error, count(*)
FROM {LINKS} WHERE {MATCHES} GROUP BY l.app_id, error
"""

COUNT_APPS = "SELECT count(*) FROM docora.apps"

APPS_PAGE = """
SELECT a.app_id, a.app_name, a.base_url, coalesce(links, 0), coalesce(failed, 0),
    coalesce(pending_snapshot, 0), coalesce(scanning, 0), coalesce(synced, 0), last_scanned_at
FROM docora.apps a LEFT JOIN (
    SELECT app_id, count(*) AS links,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'pending_snapshot') AS pending_snapshot,
        count(*) FILTER (WHERE status = 'scanning') AS scanning,
        count(*) FILTER (WHERE status = 'synced') AS synced,
        max(last_scanned_at) AS last_scanned_at
    FROM docora.app_repositories GROUP BY app_id
) l USING (app_id)
ORDER BY failed DESC NULLS LAST, links DESC NULLS LAST, app_id
LIMIT %(limit)s OFFSET %(offset)s
"""


def links_page(
    database: Database, which: LinkFilter, sort: LinkSort, *, limit: int, offset: int
) -> tuple[int, list[ListedLink]]:
    """Returns the number of links and one page of them, without the states of their jobs."""
    parameters = filter_parameters(which)
    with database.snapshot():
        [(total,)] = database.rows(COUNT_LINKS, parameters)
        page = {"limit": limit, "offset": offset, "longest": _LONGEST_ERROR}
        rows = database.rows(LINKS_PAGES[sort], {**parameters, **page})
    return total, [_without_secrets(ListedLink(*row)) for row in rows]


def links_by_app(
    database: Database, which: LinkFilter, *, limit: int | None, offset: int
) -> tuple[int, list[AppCount]]:
    """Counts the links of each app, most links first: the number of apps, and one page of them.

    Without a limit the page has all of them.
    """
    total, rows = _groups(database, LINKS_BY_APP, which, {"limit": limit, "offset": offset})
    return total, [AppCount(*row) for row in rows]


def links_by_repository(
    database: Database, which: LinkFilter, *, limit: int, offset: int
) -> tuple[int, list[RepositoryCount]]:
    """Counts the links of each repository, most first: the number of repositories, and one page."""
    total, rows = _groups(database, LINKS_BY_REPOSITORY, which, {"limit": limit, "offset": offset})
    return total, [RepositoryCount(*row) for row in rows]


def links_by_status(
    database: Database, which: LinkFilter, *, limit: int, offset: int
) -> tuple[int, list[StatusCount]]:
    """Counts the links of each status, most first: the number of statuses, and one page."""
    total, rows = _groups(database, LINKS_BY_STATUS, which, {"limit": limit, "offset": offset})
    return total, [StatusCount(*row) for row in rows]


def links_by_error(
    database: Database, which: LinkFilter, longest: int
) -> Iterator[tuple[str, str | None, int]]:
    """Yields app id, error, cut to `longest` characters, and number of links, in no order.

    Read all before the next statement of this connection.
    """
    parameters = filter_parameters(which) | {"longest": longest}
    rows = database.stream(LINKS_BY_ERROR, parameters)
    return ((app_id, error, links) for app_id, error, links in rows)


def apps_page(database: Database, *, limit: int, offset: int) -> tuple[int, list[AppSummary]]:
    """Returns the number of apps and one page of them, most failed links first."""
    with database.snapshot():
        [(total,)] = database.rows(COUNT_APPS)
        rows = database.rows(APPS_PAGE, {"limit": limit, "offset": offset})
    apps = [AppSummary(*row) for row in rows]
    return total, [replace(app, base_url=mask_url(app.base_url)) for app in apps]


def _groups(
    database: Database, sql: str, which: LinkFilter, page: Mapping[str, object]
) -> tuple[int, Sequence[TupleRow]]:
    """Returns the number of groups, and the rows of one page."""
    rows = database.rows(sql, {**filter_parameters(which), **page})
    return rows[0][0], [row[1:] for row in rows if row[1] is not None]


def _without_secrets(link: ListedLink) -> ListedLink:
    error = link.error_message
    if error:
        error = mask_cut(error) if link.error_message_cut else mask(error)
    return replace(link, error_message=error, github_url=mask_url(link.github_url))
