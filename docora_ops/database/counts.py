"""Counting links and open circuits."""

from __future__ import annotations

from docora_ops.database.postgres import Database
from docora_ops.links import LinkStatus
from docora_ops.status import LinkCounts

# One statement, so that all counts are of the same moment.
COUNT_BY_STATUS = """
SELECT status, count(*), 0, 0 FROM docora.app_repositories GROUP BY status
UNION ALL
SELECT NULL, 0, count(*), (
    SELECT count(*) FROM docora.repositories JOIN docora.app_repositories USING (repository_id)
    WHERE circuit_open_until > now() AND status = 'pending_snapshot'
) FROM docora.repositories WHERE circuit_open_until > now()
"""

COUNT_APPS_WITH_FAILED_LINKS = """
SELECT count(*) FROM (
    SELECT FROM docora.app_repositories WHERE status = 'failed' GROUP BY app_id
) apps
"""

HAS_SCANNED_LINKS = """
SELECT EXISTS (
    SELECT FROM docora.app_repositories
    WHERE status <> 'pending_snapshot' OR last_scanned_at IS NOT NULL
)
"""


def count_links(database: Database) -> LinkCounts:
    """Counts the links by status, and the repositories whose circuit is open."""
    by_status = dict.fromkeys(LinkStatus, 0)
    open_circuits = held_back = 0
    for status, links, circuits, pending in database.rows(COUNT_BY_STATUS):
        if status in set(LinkStatus):
            by_status[LinkStatus(status)] = links
        open_circuits += circuits
        held_back += pending
    return LinkCounts(by_status, open_circuits, held_back)


def count_apps_with_failed_links(database: Database) -> int:
    """Counts the apps that have failed links."""
    [(apps,)] = database.rows(COUNT_APPS_WITH_FAILED_LINKS)
    return int(apps)


def has_scanned_links(database: Database) -> bool:
    """Tells whether a worker has ever begun with a link."""
    [(found,)] = database.rows(HAS_SCANNED_LINKS)
    return bool(found)
