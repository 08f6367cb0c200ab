"""Reads lists, counts, histories and results of links. Masks secrets in texts and URLs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

from psycopg.rows import TupleRow

from docora_ops.database.link_rows import (
    CIRCUIT_IS_OPEN,
    COUNT_MATCHING,
    LINKS,
    MATCHES,
    filter_parameters,
    pairs,
)
from docora_ops.database.postgres import Database
from docora_ops.error_groups import LONGEST, ErrorGroup, group_errors
from docora_ops.errors import PostgresDeniedError
from docora_ops.jobs import Hold, JobState
from docora_ops.links import (
    App,
    LinkFilter,
    LinkGroup,
    LinkIds,
    LinkRef,
    LinkSort,
    LinkStatus,
)
from docora_ops.text import mask, mask_cut, mask_url

_LONGEST_ERROR = 1900  # characters in a list: git's errors can be a megabyte long


@dataclass(frozen=True, slots=True)
class ListedLink(LinkIds):
    """A link and the state of its job. The fields have Docora's own names."""

    app_id: str
    app_name: str
    repository_id: str
    repository_name: str
    github_url: str
    status: str
    error_message: str | None
    error_message_cut: bool
    retry_count: int
    last_scanned_at: datetime | None
    last_scanned_seconds: int | None  # since then, by the clock of Postgres
    circuit_open_until: datetime | None
    circuit_is_open: bool  # by the clock of Postgres
    job: JobState | None = None  # None if Redis did not answer
    failed_at: datetime | None = None  # the last failure of a failed link, if the queue knows it


@dataclass(frozen=True)
class RepositoryCount:
    """The number of links of one repository."""

    repository_id: str
    repository_name: str
    links: int


@dataclass(frozen=True)
class StatusCount:
    """The number of links with one status."""

    status: str
    links: int


@dataclass(frozen=True)
class AppSummary(App):
    """An app, the number of its links by status, and the time of the last good scan of any link.

    good_until_at: the latest of the failed links' last good scans; None if there is none.
    good_until_seconds: the seconds since `good_until_at`.
    oldest_scan_seconds: the seconds since the earliest of the failed links' last good scans.
    """

    base_url: str
    links: int
    failed: int
    pending_snapshot: int
    scanning: int
    synced: int
    last_scanned_at: datetime | None
    good_until_at: datetime | None
    good_until_seconds: int | None
    oldest_scan_seconds: int | None
    email: str | None = None  # None if the role may not read it
    held: Hold | None = None  # from Redis


@dataclass(frozen=True)
class Snapshot:
    """The stored commit of a repository, and the number of its files."""

    commit_sha: str
    branch: str
    scanned_at: datetime | None
    files: int


@dataclass(frozen=True)
class LinkHistory:
    """Facts about a link in Postgres that are not in `Link`."""

    created_at: datetime
    last_scanned_at: datetime | None
    last_scanned_seconds: int | None  # since then, by the clock of Postgres
    consecutive_failures: int
    delivered_files: int
    last_delivered_at: datetime | None
    snapshot: Snapshot | None


_IDS = "l.app_id, l.repository_id"
_ORDERS = {
    LinkSort.APP: _IDS,
    LinkSort.ERROR: f'left(l.last_error, 300) COLLATE "C" NULLS LAST, {_IDS}',
    LinkSort.RETRIES: f"l.retry_count DESC, {_IDS}",
    LinkSort.LAST_SCAN: f"l.last_scanned_at NULLS FIRST, {_IDS}",
    LinkSort.OVERDUE: f"coalesce(l.last_scanned_at, l.created_at), {_IDS}",
}

# Postgres 16 and older can't subtract an infinite time.
_SCANNED_SECONDS = """
CASE WHEN isfinite(l.last_scanned_at) THEN extract(epoch FROM now() - l.last_scanned_at)::bigint END
"""

# Selects the page before any join, so that sorting by ids uses the index on them.
LINKS_PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT l.id FROM {LINKS} WHERE {MATCHES}
    ORDER BY {{order}} LIMIT %(limit)s OFFSET %(offset)s
)
SELECT l.app_id, a.app_name, l.repository_id, r.owner || '/' || r.name, r.github_url, l.status,
    left(l.last_error, %(longest)s), coalesce(length(l.last_error) > %(longest)s, false),
    l.retry_count, l.last_scanned_at, {_SCANNED_SECONDS},
    r.circuit_open_until, {CIRCUIT_IS_OPEN}
FROM page JOIN docora.app_repositories l USING (id)
JOIN docora.apps a USING (app_id) JOIN docora.repositories r USING (repository_id)
ORDER BY {{order}}
"""

# Counts the links before any join.
_GROUPS = f"""
SELECT {{columns}}, links FROM (
    SELECT l.{{key}}, count(*) AS links FROM {LINKS} WHERE {MATCHES} GROUP BY 1
) counted {{join}} ORDER BY links DESC, {{key}}
"""

GROUPS = {
    LinkGroup.APP: _GROUPS.format(
        key="app_id", columns="app_id, app_name", join="JOIN docora.apps USING (app_id)"
    ),
    LinkGroup.REPOSITORY: _GROUPS.format(
        key="repository_id",
        columns="repository_id, owner || '/' || name",
        join="JOIN docora.repositories USING (repository_id)",
    ),
    LinkGroup.STATUS: _GROUPS.format(key="status", columns="status", join=""),
}

# The time of a failure is not recorded; the last good scan is a lower bound.
_OF_FAILED = """(l.last_scanned_at)
    FILTER (WHERE l.status = 'failed' AND isfinite(l.last_scanned_at))
"""
_GOOD_UNTIL = f"max{_OF_FAILED}"

LINKS_BY_ERROR = f"""
SELECT app_id, app_name, error, links, good_until, extract(epoch FROM now() - good_until)::bigint,
    extract(epoch FROM now() - oldest)::bigint
FROM (
    SELECT l.app_id, left(l.last_error, {LONGEST + 1}) AS error, count(*) AS links,
        {_GOOD_UNTIL} AS good_until, min{_OF_FAILED} AS oldest
    FROM {LINKS} WHERE {MATCHES} GROUP BY l.app_id, error
) counted LEFT JOIN docora.apps USING (app_id)
"""

APPS = f"""
WITH chosen AS (SELECT l.app_id, l.status, l.last_scanned_at FROM {LINKS} WHERE {MATCHES})
SELECT a.app_id, a.app_name, a.base_url, count(l.app_id),
    count(*) FILTER (WHERE status = 'failed'),
    count(*) FILTER (WHERE status = 'pending_snapshot'),
    count(*) FILTER (WHERE status = 'scanning'),
    count(*) FILTER (WHERE status = 'synced'),
    max(last_scanned_at), {_GOOD_UNTIL}, extract(epoch FROM now() - {_GOOD_UNTIL})::bigint,
    extract(epoch FROM now() - min{_OF_FAILED})::bigint
FROM docora.apps a LEFT JOIN chosen l ON l.app_id = a.app_id
WHERE %(app_ids)s::text[] IS NULL OR a.app_id = ANY (%(app_ids)s::text[])
GROUP BY a.app_id, a.app_name, a.base_url HAVING %(every_app)s OR count(l.app_id) > 0
ORDER BY 5 DESC, 4 DESC, 1
"""


def links_page(
    database: Database, which: LinkFilter, sort: LinkSort, *, limit: int, offset: int
) -> tuple[int, list[ListedLink]]:
    """Returns the number of matching links, and one page of them without the states of jobs."""
    parameters = filter_parameters(which)
    with database.consistent_reads():
        total = count_links(database, which)
        page = {"limit": limit, "offset": offset, "longest": _LONGEST_ERROR}
        rows = database.rows(LINKS_PAGE.format(order=_ORDERS[sort]), {**parameters, **page})
    listed = []
    for link in (ListedLink(*row) for row in rows):
        error = link.error_message
        if error:
            error = mask_cut(error) if link.error_message_cut else mask(error)
        listed.append(replace(link, error_message=error, github_url=mask_url(link.github_url)))
    return total, listed


def count_links(database: Database, which: LinkFilter) -> int:
    """Counts the matching links."""
    [(count,)] = database.rows(COUNT_MATCHING, filter_parameters(which))
    return int(count)


def links_by_group(database: Database, group: LinkGroup, which: LinkFilter) -> list[TupleRow]:
    """Returns a row per group, most links first: id (unless a status), name, number of links."""
    return list(database.rows(GROUPS[group], filter_parameters(which)))


def error_groups(database: Database, which: LinkFilter) -> list[ErrorGroup]:
    """Groups the links by error regardless of paths, numbers and ids, most links first."""
    return group_errors(database.stream(LINKS_BY_ERROR, filter_parameters(which)))


def summarize_apps(database: Database, which: LinkFilter, *, every_app: bool) -> list[AppSummary]:
    """Returns the apps with the numbers of their matching links, most failed links first.

    every_app: include apps without matching links, but only apps in `which.app_ids`, if any.
    """
    parameters = filter_parameters(which) | {"every_app": every_app}
    apps = [AppSummary(*row) for row in database.rows(APPS, parameters)]
    return [replace(app, base_url=mask_url(app.base_url)) for app in apps]


READ_CONTACTS = """
SELECT app_id, email, created_at FROM docora.apps WHERE app_id = ANY (%(app_ids)s::text[])
"""


def read_contacts(
    database: Database, app_ids: Sequence[str]
) -> dict[str, tuple[str | None, datetime | None]]:
    """Returns email and creation time by app id; both None if the role may not read them."""
    try:  # outside of a transaction, which a refusal would abort
        rows = database.rows(READ_CONTACTS, {"app_ids": list(app_ids)})
    except PostgresDeniedError:
        return dict.fromkeys(app_ids, (None, None))
    return dict.fromkeys(app_ids, (None, None)) | {
        app_id: (mask(email), created_at) for app_id, email, created_at in rows
    }


# One statement, so that all counts are of the same moment.
COUNT_BY_STATUS = """
SELECT status, count(*) FROM docora.app_repositories GROUP BY status
UNION ALL
SELECT 'open', count(*) FROM docora.repositories WHERE circuit_open_until > now()
UNION ALL
SELECT 'behind circuit', count(*) FROM docora.repositories
JOIN docora.app_repositories USING (repository_id)
WHERE circuit_open_until > now() AND status = 'pending_snapshot'
UNION ALL
SELECT 'left', count(*) FROM docora.repositories r
JOIN docora.app_repositories l USING (repository_id)
WHERE circuit_open_until IS NOT NULL AND status = 'failed'
    -- The scan of another link would close the circuit.
    AND NOT EXISTS (
        SELECT FROM docora.app_repositories other
        WHERE other.repository_id = l.repository_id AND other.status <> 'failed'
    )
"""


@dataclass(frozen=True)
class LinkCounts:
    """The number of links by status, and the number of repositories whose circuit is open."""

    by_status: Mapping[LinkStatus, int]  # every status
    open_circuits: int
    pending_with_open_circuit: int = 0  # links
    failed_until_retry: int = 0  # links that no scheduler queues, because a circuit opened

    @property
    def failed(self) -> int:
        """Counts the failed links."""
        return self.by_status[LinkStatus.FAILED]


def count_by_status(database: Database) -> LinkCounts:
    """Counts the links by status, and the repositories with an open circuit."""
    counts: dict[str, int] = dict(database.rows(COUNT_BY_STATUS))
    by_status = {status: counts.get(status, 0) for status in LinkStatus}
    return LinkCounts(by_status, counts["open"], counts["behind circuit"], counts["left"])


def read_now(database: Database) -> datetime:
    """Returns the current time by the clock of Postgres."""
    [(now,)] = database.rows("SELECT now()")
    return cast("datetime", now)


def has_scanned_links(database: Database) -> bool:
    """Tells whether a worker has ever scanned a link."""
    was_scanned = "status <> 'pending_snapshot' OR last_scanned_at IS NOT NULL"
    return bool(database.rows(f"SELECT FROM docora.app_repositories WHERE {was_scanned} LIMIT 1"))


LINK_HISTORY = f"""
SELECT l.created_at, l.last_scanned_at, {_SCANNED_SECONDS},
    r.consecutive_failures, d.files, d.last_delivered_at, s.commit_sha, s.branch, s.scanned_at,
    (SELECT count(*) FROM docora.snapshot_files WHERE snapshot_id = s.id)
FROM docora.app_repositories l JOIN docora.repositories r USING (repository_id)
LEFT JOIN docora.repository_snapshots s USING (repository_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS files, max(delivered_at) AS last_delivered_at FROM docora.app_delivered_files
    WHERE app_id = l.app_id AND repository_id = l.repository_id
) d
WHERE l.id = %(id)s
"""


def has_token(database: Database, ref: LinkRef) -> bool | None:
    """Tells whether a link has a token; None if the role may not read that."""
    sql = "SELECT github_token_encrypted IS NOT NULL FROM docora.app_repositories WHERE id = %(id)s"
    try:  # outside of a transaction, which a refusal would abort
        return (True,) in database.rows(sql, {"id": ref.id})
    except PostgresDeniedError:
        return None


def link_history(database: Database, ref: LinkRef) -> LinkHistory:
    """Returns the history of an existing link."""
    [row] = database.rows(LINK_HISTORY, {"id": ref.id})
    fields = [*row[:6], Snapshot(*row[6:]) if row[6] else None]
    return LinkHistory(*fields)


READ_RESULTS = """
SELECT followed.id::text, l.app_id, l.repository_id, l.status, left(l.last_error, %(longest)s + 1)
FROM unnest(%(ids)s::uuid[]) AS followed(id)
LEFT JOIN docora.app_repositories l ON l.id = followed.id
WHERE l.id IS NULL OR l.status IN ('synced', 'failed')
"""

READ_UNSYNCED = """
SELECT l.id::text, l.app_id, l.repository_id, l.status
FROM docora.app_repositories l WHERE l.id = ANY (%(ids)s::uuid[]) AND l.status <> 'synced'
"""

_LONGEST_RESULT = 1000  # characters of an error: a wait may cover a million links


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """The result of the last snapshot of a link. Only `id` is set if the link is gone."""

    id: str
    ref: LinkRef | None
    status: str | None
    error_message: str | None


def read_results(database: Database, ids: Sequence[str]) -> list[SnapshotResult]:
    """Returns the results of the links with these row ids. Omits pending and scanning links."""
    results = []
    rows = database.rows(READ_RESULTS, {"ids": list(ids), "longest": _LONGEST_RESULT})
    for *ids_of_link, status, error in rows:
        ref = LinkRef(*ids_of_link) if status else None
        results.append(SnapshotResult(ids_of_link[0], ref, status, error and _masked(error)))
    return results


def _masked(error: str) -> str:
    """Masks an error. If the error was cut, because it is too long, drops its last word."""
    return mask_cut(error[:-1]) if len(error) > _LONGEST_RESULT else mask(error)


LAST_ERRORS = """
SELECT l.app_id, l.repository_id, left(l.last_error, %(longest)s + 1)
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS chosen(app_id, repository_id)
JOIN docora.app_repositories l USING (app_id, repository_id) WHERE l.last_error IS NOT NULL
"""


def last_errors(database: Database, links: Sequence[LinkIds]) -> dict[str, str]:
    """Returns the last errors of the links by job id, without secrets."""
    rows = database.rows(LAST_ERRORS, pairs(links) | {"longest": _LONGEST_RESULT})
    return {LinkRef("", *ids).job_id: _masked(error) for *ids, error in rows}


def read_unsynced(database: Database, ids: Sequence[str]) -> dict[LinkRef, str]:
    """Returns the status of each link with one of these row ids, except synced links."""
    rows = database.rows(READ_UNSYNCED, {"ids": list(ids)})
    return {LinkRef(*ref): status for *ref, status in rows}
