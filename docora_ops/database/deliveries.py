"""Delivery records: which files an app has received."""

from collections.abc import Sequence

from docora_ops.database.link_rows import like, pairs
from docora_ops.database.postgres import Database
from docora_ops.links import LinkIds

_OF_LINKS = """unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS l(app_id, repository_id)
WHERE d.app_id = l.app_id AND d.repository_id = l.repository_id
"""


_MATCHES_PATH = "AND d.file_path LIKE %(path)s"


def clear_deliveries(
    database: Database, links: Sequence[LinkIds], *, update: bool, path: str | None = None
) -> int:
    """Deletes the delivery records of links. Returns their number.

    update: mark the records as outdated instead.
    path: only records of files whose path matches (case-sensitive); `*` matches any text.
    """
    of_links = _OF_LINKS + (_MATCHES_PATH if path else "")
    delete = f"DELETE FROM docora.app_delivered_files d USING {of_links}"
    # No content has this SHA-256, so the next snapshot sends an update for each of these files, and
    # a deletion for each file that is gone. With an empty value, Docora's worker would send no
    # `previous_sha`; an app that validates it accepts a value in the form of a SHA-256.
    mark = f"UPDATE docora.app_delivered_files d SET file_sha = repeat('0', 64) FROM {of_links}"
    return database.execute(mark if update else delete, _of_links(links, path))


def count_deliveries(
    database: Database, links: Sequence[LinkIds], *, path: str | None = None
) -> int:
    """Counts the delivery records of the links. `path`: see `clear_deliveries`."""
    of_links = _OF_LINKS + (_MATCHES_PATH if path else "")
    sql = f"SELECT count(*) FROM docora.app_delivered_files d, {of_links}"
    [(count,)] = database.rows(sql, _of_links(links, path))
    return int(count)


COUNT_UNDELIVERED = """
SELECT count(DISTINCT f.path)
FROM docora.repository_snapshots s JOIN docora.snapshot_files f ON f.snapshot_id = s.id
WHERE s.repository_id = %(repository_id)s AND f.path LIKE %(path)s AND NOT EXISTS (
    SELECT FROM docora.app_delivered_files
    WHERE app_id = %(app_id)s AND repository_id = s.repository_id AND file_path = f.path
)
"""


def count_undelivered(database: Database, link: LinkIds, *, path: str) -> int:
    """Counts the files of the stored commit that match `path` and have no delivery record."""
    ids = {"app_id": link.app_id, "repository_id": link.repository_id}
    [(count,)] = database.rows(COUNT_UNDELIVERED, ids | {"path": like(path)})
    return int(count)


def _of_links(links: Sequence[LinkIds], path: str | None) -> dict[str, object]:
    return {**pairs(links), "path": like(path) if path else None}
