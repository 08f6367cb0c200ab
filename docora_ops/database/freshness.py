"""Reads the last good scans of links, and counts the links that are due or overdue."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

from docora_ops.database.link_rows import CIRCUIT_IS_CLOSED, DUE, LINKS, NOT_HELD, OVERDUE
from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef, LinkStatus

# For statements that read all links: to join all repositories would take longer than the rest of a
# screen. Statements with a small LIMIT join `LINKS` instead, by an index: without up-to-date
# statistics, Postgres would read all open circuits again for each link.
_LINKS = """docora.app_repositories l LEFT JOIN (
    SELECT repository_id, circuit_open_until FROM docora.repositories
    WHERE circuit_open_until IS NOT NULL
) r USING (repository_id)"""

_RECENTLY = 900
"""Seconds before the last scan in which the pace of scanning is measured."""

_AT_PACE = f"""l.status = 'synced' AND l.last_scanned_at <= now()
    AND l.last_scanned_at > (SELECT since FROM last)
    AND {CIRCUIT_IS_CLOSED} AND {NOT_HELD}"""

# A scan in the future (after a clock was set back) does not count as the last scan yet. The pace is
# that of links that are scanned regularly: the last good scan of others says nothing about it.
READ_SCANS = f"""
WITH last AS MATERIALIZED (
    SELECT max(last_scanned_at) AS at, max(last_scanned_at) - %(recently)s * interval '1 second'
        AS since FROM docora.app_repositories WHERE last_scanned_at <= now()
)
SELECT now(), (SELECT at FROM last), count(*) FILTER (WHERE {_AT_PACE}),
    min(l.last_scanned_at) FILTER (WHERE {_AT_PACE}),
    count(*) FILTER (WHERE l.last_scanned_at <= now()
        AND l.last_scanned_at > now() - %(recently)s * interval '1 second'),
    count(*) FILTER (WHERE l.status <> 'failed' AND {CIRCUIT_IS_CLOSED} AND {NOT_HELD}),
    count(*) FILTER (WHERE {DUE} AND {NOT_HELD}),
    min(greatest(l.last_scanned_at, r.circuit_open_until)) FILTER (
        WHERE l.status = 'synced' AND l.last_scanned_at IS NOT NULL
            AND {CIRCUIT_IS_CLOSED} AND {NOT_HELD}
    )
FROM {_LINKS}
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

# Goes back from now, each time to the earliest scan in the `step_seconds` before, as long as these
# have enough scans. Held apps and open circuits are left out of account: they make no difference.
STEADY_SINCE = """
WITH RECURSIVE steps(at) AS (
    SELECT now()
    UNION ALL
    SELECT earliest FROM steps CROSS JOIN LATERAL (
        SELECT min(last_scanned_at) AS earliest FROM (
            SELECT last_scanned_at FROM docora.app_repositories
            WHERE status = 'synced' AND last_scanned_at < steps.at
                AND last_scanned_at >= steps.at - %(step_seconds)s * interval '1 second'
            ORDER BY last_scanned_at LIMIT %(least)s
        ) scans HAVING count(*) = %(least)s
    ) step
)
SELECT min(at) FROM steps
"""

# The limit keeps Postgres from reading all links if most of them are overdue.
COUNT_OVERDUE = f"""
SELECT coalesce(sum(links), 0)::bigint, count(*), min(oldest_at) FROM (
    SELECT count(*) AS links, min(oldest_at) AS oldest_at FROM (
        SELECT l.app_id, CASE WHEN l.last_scanned_at IS NOT NULL
            THEN greatest(l.last_scanned_at, r.circuit_open_until) END AS oldest_at
        FROM {_LINKS} WHERE {OVERDUE} AND {NOT_HELD} LIMIT %(most)s
    ) links GROUP BY app_id
) apps
"""
MOST_OVERDUE = 100_000
"""Limit for counting overdue links: counting a million takes longer than the rest of a screen."""

# A link becomes due one rescan interval after its last scan, a new link when it is created. No link
# is due while its circuit is open. The rows do not record when a link became pending or failed.
LONG_DUE = f"""
SELECT l.id::text, l.app_id, l.repository_id FROM {LINKS}
WHERE l.status = %(status)s AND {NOT_HELD}
    AND (l.status <> 'failed' OR r.circuit_open_until IS NULL)
    AND (l.last_scanned_at IS NULL OR l.last_scanned_at < %(before)s)
    AND greatest(
        l.created_at, r.circuit_open_until,
        CASE WHEN l.status = 'synced' THEN
            l.last_scanned_at + %(rescan_interval_ms)s::bigint * interval '1 millisecond'
        ELSE l.last_scanned_at END
    ) < %(before)s
LIMIT %(most)s
"""
_SAMPLE = 20

# Looks up only the few links that are being scanned, by an index.
LAST_DELIVERY = """
SELECT max(delivered_at) FROM docora.app_delivered_files JOIN (
    SELECT app_id, repository_id FROM docora.app_repositories WHERE status = 'scanning' LIMIT 100
) links USING (app_id, repository_id)
"""


@dataclass(frozen=True)
class Scans:
    """The numbers of due links and of recent good scans. All times are by Postgres's clock."""

    read_at: datetime
    last_scanned_at: datetime | None
    before_last: int  # regularly scanned links, scanned in the 15 minutes up to the last scan
    first_at: datetime | None  # the oldest scan in these 15 minutes
    scanned_recently: int  # links scanned in the last 15 minutes
    wanted: int  # links that should be scanned regularly
    due: int
    # The earliest scan of a synced link, or the end of an open circuit after that scan.
    oldest_at: datetime | None
    # The end and the length of each gap of at least 10 seconds between two scans, in the hour
    # before the last scan.
    gaps: Sequence[tuple[datetime, timedelta]] = ()


def read_scans(database: Database, held: Sequence[str], rescan_interval_ms: int) -> Scans:
    """Reads when links were scanned, how many are due, and how many should be scanned regularly.

    held: ids of held apps. Their links count neither as due nor as regularly scanned.
    """
    values = {"rescan_interval_ms": rescan_interval_ms, "recently": _RECENTLY, "held": held}
    with database.consistent_reads():
        [row] = database.rows(READ_SCANS, values)
        scans = Scans(*row)
        return replace(scans, gaps=database.rows(READ_GAPS, {"last_at": scans.last_scanned_at}))


def steady_since(database: Database, step_seconds: int, least: int) -> datetime:
    """Returns since when links have been scanned steadily; now if they are not.

    Scanning is steady if at least `least` synced links were last scanned in each `step_seconds`.
    """
    [(since,)] = database.rows(STEADY_SINCE, {"step_seconds": step_seconds, "least": least})
    return cast("datetime", since)


def count_overdue(
    database: Database, before: datetime, held: Sequence[str]
) -> tuple[int, int, datetime | None]:
    """Counts the overdue links, up to `MOST_OVERDUE`, and their apps.

    Also returns the earliest of their last good scans; None if there is none. For a link whose
    circuit closed after the scan, the time when the circuit closed counts instead.

    before: links without a good scan since this time are overdue.
    held: ids of apps to leave out.
    """
    values = {"overdue_before": before, "most": MOST_OVERDUE, "held": held}
    [(links, apps, oldest_at)] = database.rows(COUNT_OVERDUE, values)
    return links, apps, oldest_at


def long_due_links(
    database: Database,
    statuses: Sequence[LinkStatus],
    before: datetime,
    rescan_interval_ms: int,
    held: Sequence[str],
) -> list[LinkRef]:
    """Returns up to 20 links of each status that became due before `before`.

    statuses: SYNCED, PENDING_SNAPSHOT or FAILED. The rows do not record when a link became pending
        or failed, so the earliest possible time counts.
    held: ids of apps to leave out.
    """
    values = {"before": before, "rescan_interval_ms": rescan_interval_ms, "held": held}
    return [
        LinkRef(*row)
        for status in statuses
        for row in database.rows(LONG_DUE, {**values, "status": status, "most": _SAMPLE})
    ]


def last_delivery(database: Database) -> datetime | None:
    """Returns when a file was last delivered for any link that is being scanned; None if never.

    Looks at up to 100 such links.
    """
    [(delivered_at,)] = database.rows(LAST_DELIVERY)
    return cast("datetime | None", delivered_at)
