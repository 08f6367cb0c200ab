"""Reads the last good scans of links, and counts the links that are due or overdue."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from docora_ops.database.link_rows import DUE, LINKS, OVERDUE
from docora_ops.database.postgres import Database
from docora_ops.links import LinkStatus

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

# Each part reads few rows, by an index: those of the last minutes, and those of repositories whose
# circuit was opened, which are left out. All other links are in sync and due, or failed.
READ_SCANS = """
WITH recent AS (
    SELECT count(*) AS links, min(last_scanned_at) AS oldest_at FROM docora.app_repositories
    WHERE last_scanned_at > now() - %(recently)s * interval '1 second'
), fresh AS (
    SELECT count(*) AS links
    FROM docora.app_repositories l LEFT JOIN docora.repositories r USING (repository_id)
    WHERE l.status = 'synced'
        AND l.last_scanned_at >= now() - %(rescan_interval_ms)s::bigint * interval '1 millisecond'
        AND (r.circuit_open_until IS NULL OR r.circuit_open_until <= now())
), opened AS (
    SELECT count(*) FILTER (WHERE l.status = 'pending_snapshot' AND is_open) AS pending,
        count(*) FILTER (WHERE l.status = 'scanning' AND is_open) AS scanning,
        count(*) FILTER (WHERE l.status = 'synced' AND is_open) AS synced,
        count(*) FILTER (WHERE l.status = 'failed') AS failed
    FROM (
        SELECT repository_id, circuit_open_until > now() AS is_open FROM docora.repositories
        WHERE circuit_open_until IS NOT NULL
    ) r JOIN docora.app_repositories l USING (repository_id)
)
SELECT now(), (SELECT max(last_scanned_at) FROM docora.app_repositories),
    recent.links, recent.oldest_at, fresh.links,
    opened.pending, opened.scanning, opened.synced, opened.failed
FROM recent, fresh, opened
"""

# The limit keeps Postgres from reading all links if most of them are overdue.
COUNT_OVERDUE = f"""
SELECT coalesce(sum(links), 0)::bigint, count(*), min(since), min(oldest_at) FROM (
    SELECT count(*) AS links, min(since) AS since, min(oldest_at) AS oldest_at FROM (
        SELECT l.app_id, coalesce(l.last_scanned_at, l.created_at) AS since,
            CASE WHEN l.last_scanned_at IS NOT NULL
                THEN greatest(l.last_scanned_at, r.circuit_open_until) END AS oldest_at
        FROM docora.app_repositories l LEFT JOIN (
            SELECT repository_id, circuit_open_until FROM docora.repositories
            WHERE circuit_open_until IS NOT NULL
        ) r USING (repository_id)
        WHERE {OVERDUE} LIMIT %(most)s
    ) links GROUP BY app_id
) apps
"""
MOST_OVERDUE = 100_000
"""Overdue links that are counted: to count a million takes longer than all the rest of a screen."""

OLDEST_SCAN = f"""
SELECT l.last_scanned_at FROM {LINKS}
WHERE l.status = 'synced' AND l.last_scanned_at >= %(before)s
    AND (r.circuit_open_until IS NULL OR r.circuit_open_until <= now())
ORDER BY l.last_scanned_at LIMIT 1
"""

HAS_DUE = f"""
SELECT FROM {LINKS}
WHERE {DUE} AND greatest(l.created_at, r.circuit_open_until) < %(before)s LIMIT 1
"""

HAS_WAITING = f"""
SELECT FROM {LINKS}
WHERE l.status <> 'failed'
    AND greatest(coalesce(l.last_scanned_at, l.created_at), r.circuit_open_until) < %(before)s
LIMIT 1
"""


@dataclass(frozen=True)
class Scans:
    """The good scans of all links at one moment, by the clock of Postgres."""

    read_at: datetime
    last_scanned_at: datetime | None
    scanned_recently: int  # links
    first_recent_at: datetime | None  # the oldest of these scans
    wanted: int  # links that are to be scanned again and again
    due: int


@dataclass(frozen=True)
class OverdueLinks:
    """The number of overdue links and of their apps; with `MOST_OVERDUE` links, lower bounds.

    since: the oldest last good scan, or the creation of a link that was never scanned.
    oldest_scan_at: the oldest last good scan, or the end of an open circuit after that.
    """

    links: int
    apps: int
    since: datetime | None
    oldest_scan_at: datetime | None


def read_scans(
    database: Database,
    by_status: Mapping[LinkStatus, int],
    *,
    rescan_interval_ms: int,
    recently: int,
) -> Scans:
    """Reads the good scans of all links.

    by_status: the number of links by status.
    recently: the seconds for which good scans are counted.
    """
    values = {"rescan_interval_ms": rescan_interval_ms, "recently": recently}
    [row] = database.rows(READ_SCANS, values)
    now, last_at, recent, first_at, fresh, pending, scanning, synced, failed = row
    pending = by_status[LinkStatus.PENDING_SNAPSHOT] - pending
    synced = by_status[LinkStatus.SYNCED] - synced
    wanted = pending + synced + by_status[LinkStatus.SCANNING] - scanning
    due = pending + synced - fresh + by_status[LinkStatus.FAILED] - failed
    return Scans(now, last_at, recent, first_at, wanted, due)


def count_overdue(database: Database, before: datetime) -> OverdueLinks:
    """Counts the links whose last good scan was before that moment, and that are overdue."""
    values = {"overdue_before": before, "most": MOST_OVERDUE}
    [(links, *rest)] = database.rows(COUNT_OVERDUE, values)
    if links >= MOST_OVERDUE and (oldest := oldest_scan(database, _LONG_AGO)):
        return OverdueLinks(links, rest[0], oldest, oldest)
    return OverdueLinks(links, *rest)


def oldest_scan(database: Database, since: datetime) -> datetime | None:
    """Returns the oldest last good scan that is not before `since`.

    Considers only links in sync whose circuit is not open.
    """
    rows = database.rows(OLDEST_SCAN, {"before": since})
    return rows[0][0] if rows else None


def has_due_link(database: Database, before: datetime, rescan_interval_ms: int) -> bool:
    """Tells whether a link is due that exists, and whose circuit is closed, since that moment."""
    values = {"before": before, "rescan_interval_ms": rescan_interval_ms}
    return bool(database.rows(HAS_DUE, values))


def has_waiting_link(database: Database, before: datetime) -> bool:
    """Tells whether a link that has not failed was last scanned before that moment."""
    return bool(database.rows(HAS_WAITING, {"before": before}))
