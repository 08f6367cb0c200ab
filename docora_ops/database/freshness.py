"""Reads the last good scans of links, and counts the links that are due or overdue."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from docora_ops.database.link_rows import CIRCUIT_IS_CLOSED, DUE, LINKS, NOT_HELD, OVERDUE
from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef, LinkStatus

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

# For statements that read all links: to join all repositories would take longer than the rest of a
# screen. With a small LIMIT, Postgres would read all open circuits again for each link until its
# statistics know of them, which may never be: such statements join `LINKS`, by an index.
_LINKS = """docora.app_repositories l LEFT JOIN (
    SELECT repository_id, circuit_open_until FROM docora.repositories
    WHERE circuit_open_until IS NOT NULL
) r USING (repository_id)"""

# A scan in the future (after a clock was set back) does not count as the last scan yet.
READ_SCANS = f"""
SELECT now(), before_last.*, counts.* FROM (
    SELECT max(last_scanned_at), count(*), min(last_scanned_at),
        count(*) FILTER (WHERE last_scanned_at > now() - %(recently)s * interval '1 second')
    FROM docora.app_repositories
    WHERE last_scanned_at <= now() AND last_scanned_at > (
        SELECT max(last_scanned_at) - %(recently)s * interval '1 second'
        FROM docora.app_repositories WHERE last_scanned_at <= now()
    )
) before_last, (
    SELECT count(*) FILTER (WHERE l.status <> 'failed' AND {CIRCUIT_IS_CLOSED}),
        count(*) FILTER (WHERE {DUE} AND {NOT_HELD})
    FROM {_LINKS}
) counts
"""

# The first and the last scan in each piece of the hour before the last scan, by an index: to read
# all scans would take longer than the rest of a screen. A row keeps only the last scan of its link,
# so links that are no longer scanned would show gaps that did not exist. Therefore, only synced
# links whose circuit is not open count.
_SCAN_IN_PIECE = f"""LATERAL (
    SELECT l.last_scanned_at FROM {LINKS}
    WHERE l.last_scanned_at >= piece AND l.last_scanned_at < piece + interval '10 seconds'
        AND l.status = 'synced' AND {CIRCUIT_IS_CLOSED}
    ORDER BY l.last_scanned_at {{direction}} LIMIT 1
)"""
READ_GAPS = f"""
SELECT first_at, gap FROM (
    SELECT first_at, first_at - lag(last_at) OVER (ORDER BY first_at) AS gap
    FROM generate_series(
        %(last_at)s::timestamptz - interval '1 hour', %(last_at)s, interval '10 seconds'
    ) piece
    CROSS JOIN {_SCAN_IN_PIECE.format(direction="ASC")} AS first_scan(first_at)
    CROSS JOIN {_SCAN_IN_PIECE.format(direction="DESC")} AS last_scan(last_at)
) pieces WHERE gap >= interval '10 seconds'
"""

# The limit keeps Postgres from reading all links if most of them are overdue.
COUNT_OVERDUE = f"""
SELECT coalesce(sum(links), 0)::bigint, count(*), min(since), min(oldest_at) FROM (
    SELECT count(*) AS links, min(since) AS since, min(oldest_at) AS oldest_at FROM (
        SELECT l.app_id, coalesce(l.last_scanned_at, l.created_at) AS since,
            CASE WHEN l.last_scanned_at IS NOT NULL
                THEN greatest(l.last_scanned_at, r.circuit_open_until) END AS oldest_at
        FROM {_LINKS} WHERE {OVERDUE} AND {NOT_HELD} LIMIT %(most)s
    ) links GROUP BY app_id
) apps
"""
MOST_OVERDUE = 100_000
"""Limit for counting overdue links: counting a million takes longer than the rest of a screen."""

OLDEST_SCAN = f"""
SELECT l.last_scanned_at FROM {LINKS}
WHERE l.status = 'synced' AND l.last_scanned_at >= %(before)s AND {NOT_HELD} AND {CIRCUIT_IS_CLOSED}
ORDER BY l.last_scanned_at LIMIT 1
"""

# A link becomes due one rescan interval after its last scan, a new link when it is created. No link
# is due while its circuit is open. The rows do not record when a link became pending or failed.
LONG_DUE = f"""
SELECT l.id::text, l.app_id, l.repository_id, since FROM {LINKS}
CROSS JOIN LATERAL (
    SELECT greatest(
        l.created_at, r.circuit_open_until,
        CASE WHEN l.status = 'synced' THEN
            l.last_scanned_at + %(rescan_interval_ms)s::bigint * interval '1 millisecond'
        ELSE l.last_scanned_at END
    ) AS since
) due
WHERE l.status = %(status)s AND since < %(before)s AND {NOT_HELD}
    AND (l.status <> 'failed' OR r.circuit_open_until IS NULL)
    AND (l.last_scanned_at IS NULL OR l.last_scanned_at < %(before)s)
LIMIT %(most)s
"""

# Looks up only the few links that are being scanned, by an index.
LAST_DELIVERY = """
SELECT max(delivered_at) FROM docora.app_delivered_files JOIN (
    SELECT app_id, repository_id FROM docora.app_repositories WHERE status = 'scanning' LIMIT 100
) links USING (app_id, repository_id)
"""

HAS_WAITING = f"""
SELECT FROM {LINKS}
WHERE l.status <> 'failed' AND {NOT_HELD}
    AND greatest(coalesce(l.last_scanned_at, l.created_at), r.circuit_open_until) < %(before)s
LIMIT 1
"""


@dataclass(frozen=True)
class Scans:
    """The numbers of due links and of recent good scans. All times are by Postgres's clock."""

    read_at: datetime
    last_scanned_at: datetime | None
    before_last: int  # links scanned in the minutes up to the last scan
    first_at: datetime | None  # the oldest of these scans
    scanned_recently: int  # links scanned in the minutes up to now
    wanted: int  # links that should be scanned regularly
    due: int


@dataclass(frozen=True)
class OverdueLinks:
    """The numbers of overdue links and of their apps. From `MOST_OVERDUE` links on, lower bounds.

    since: the earliest last good scan of an overdue link. For a link that was never scanned, its
        creation counts.
    oldest_scan_at: the earliest last good scan of an overdue link. For a link whose circuit ended
        after its scan, the end of the circuit counts. If no overdue link was ever scanned, the
        earliest last good scan of any synced link whose circuit is not open.

    With `MOST_OVERDUE` links or more, both times are the earliest last good scan of any synced link
    whose circuit is not open.
    """

    links: int
    apps: int
    since: datetime | None
    oldest_scan_at: datetime | None


def read_scans(
    database: Database, held: Sequence[str], *, rescan_interval_ms: int, recently: int
) -> Scans:
    """Counts links that are due, that should be scanned regularly, and that were scanned recently.

    held: ids of apps whose links are not due.
    recently: the length, in seconds, of two periods whose scans are counted: one that ends with the
        last scan, and one that ends now.
    """
    values = {"rescan_interval_ms": rescan_interval_ms, "recently": recently, "held": held}
    [row] = database.rows(READ_SCANS, values)
    return Scans(*row)


def count_overdue(database: Database, before: datetime, held: Sequence[str]) -> OverdueLinks:
    """Counts the links that `OVERDUE` matches.

    before: links without a good scan since this time are overdue.
    held: ids of apps to leave out.
    """
    values = {"overdue_before": before, "most": MOST_OVERDUE, "held": held}
    [(links, apps, since, oldest_at)] = database.rows(COUNT_OVERDUE, values)
    if (are_many := links >= MOST_OVERDUE) or oldest_at is None:  # not all counted, or none scanned
        start = _LONG_AGO if are_many else before
        for (oldest_at,) in database.rows(OLDEST_SCAN, {"before": start, "held": held}):
            since = oldest_at if are_many else since
    return OverdueLinks(links, apps, since, oldest_at)


def read_gaps(database: Database, last_at: datetime) -> list[tuple[datetime, timedelta]]:
    """Returns the end and the length of each gap of at least 10 seconds between good scans.

    Considers the hour before the last scan, and only synced links whose circuit is not open.
    """
    return [(end, length) for end, length in database.rows(READ_GAPS, {"last_at": last_at})]


def long_due_links(
    database: Database,
    status: LinkStatus,
    before: datetime,
    rescan_interval_ms: int,
    most: int,
    held: Sequence[str],
) -> list[tuple[LinkRef, datetime]]:
    """Returns up to `most` links with this status that became due before `before`, and when.

    status: SYNCED, PENDING_SNAPSHOT or FAILED. The rows do not record when a link became pending or
        failed: the earliest possible time counts.
    held: ids of apps to leave out.
    """
    values = {"before": before, "rescan_interval_ms": rescan_interval_ms, "held": held}
    rows = database.rows(LONG_DUE, {**values, "status": status, "most": most})
    return [(LinkRef(*row[:3]), row[3]) for row in rows]


def last_delivery(database: Database) -> datetime | None:
    """Returns when a file was last delivered for a link that is being scanned; None if never.

    Looks at up to 100 of these links.
    """
    [(delivered_at,)] = database.rows(LAST_DELIVERY)
    return cast("datetime | None", delivered_at)


def has_waiting_link(database: Database, before: datetime, held: Sequence[str]) -> bool:
    """Tells whether a link that is not failed began to wait for a scan before `before`.

    The wait begins with the last scan of the link, with its creation if it was never scanned,
    or with the end of its circuit if that is later.

    held: ids of apps to leave out.
    """
    return bool(database.rows(HAS_WAITING, {"before": before, "held": held}))
