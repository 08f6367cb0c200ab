"""Delivery records: which files an app has received."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from docora_ops.database.link_rows import like, pairs
from docora_ops.database.postgres import Database
from docora_ops.links import LinkIds
from docora_ops.text import mask

_OF_LINKS = """unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS l(app_id, repository_id)
WHERE d.app_id = l.app_id AND d.repository_id = l.repository_id
    AND (%(path)s::text IS NULL OR d.file_path LIKE %(path)s)
"""


def clear_deliveries(
    database: Database, links: Sequence[LinkIds], *, update: bool, path: str | None = None
) -> int:
    """Deletes the delivery records of links. Returns the number of records.

    update: mark the records as outdated instead.
    path: only records of files whose path matches (case-sensitive); `*` matches any text.
    """
    delete = f"DELETE FROM docora.app_delivered_files d USING {_OF_LINKS}"
    # No content has this SHA-256, so the next snapshot sends an update for each of these files, and
    # a deletion for each file that is gone. With an empty value, Docora's worker would send no
    # `previous_sha`. An app that validates `previous_sha` accepts the form of a SHA-256.
    mark = f"UPDATE docora.app_delivered_files d SET file_sha = repeat('0', 64) FROM {_OF_LINKS}"
    return database.execute(mark if update else delete, _of_links(links, path))


def count_deliveries(
    database: Database, links: Sequence[LinkIds], *, path: str | None = None
) -> int:
    """Counts the delivery records of the links; with `path`, only of files that match it."""
    sql = f"SELECT count(*) FROM docora.app_delivered_files d, {_OF_LINKS}"
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


@dataclass(frozen=True)
class DeliveryFilter:
    """Which delivery records of an app to read. Each file has one record, of its last delivery.

    repository_id: None means all repositories.
    since, until: only files that were last delivered at `since` or later, and before `until`.
    path: only files whose path matches (case-sensitive); `*` matches any text.
    """

    app_id: str
    repository_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveredFile:
    """A file that an app has received, as recorded."""

    repository_id: str
    repository_name: str
    path: str
    sha: str
    delivered_at: datetime


_CHOSEN = """
FROM docora.app_delivered_files
WHERE app_id = %(app_id)s
    AND (%(repository_id)s::text IS NULL OR repository_id = %(repository_id)s)
    AND (%(since)s::timestamptz IS NULL OR delivered_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR delivered_at < %(until)s)
    AND (%(path)s::text IS NULL OR file_path LIKE %(path)s)
"""

DELIVERIES_BY_REPOSITORY = f"""
SELECT repository_id, count(*), min(delivered_at), max(delivered_at) {_CHOSEN}
GROUP BY repository_id
"""

# The primary key has this order, so each statement reads only rows behind those already read.
DELIVERED_FILES = f"""
SELECT files.repository_id, owner || '/' || name, file_path, file_sha, delivered_at FROM (
    SELECT repository_id, file_path, file_sha, delivered_at {_CHOSEN}
        AND (repository_id, file_path) > (%(after_repository)s::text, %(after_path)s::text)
    ORDER BY repository_id, file_path LIMIT %(limit)s
) files JOIN docora.repositories USING (repository_id)
ORDER BY files.repository_id, file_path
"""

_AT_ONCE = 5_000  # files per statement


def deliveries_by_repository(
    database: Database, which: DeliveryFilter
) -> dict[str, tuple[int, datetime, datetime]]:
    """Returns, by repository id, the number of files and their earliest and latest delivery time.

    Omits repositories without files.
    """
    rows = database.rows(DELIVERIES_BY_REPOSITORY, _of_filter(which))
    return {repository_id: (files, first, last) for repository_id, files, first, last in rows}


def delivered_files(database: Database, which: DeliveryFilter) -> Iterator[DeliveredFile]:
    """Yields the matching files, sorted by repository id, then path.

    Reads some thousand files per statement, so that no statement waits for a slow reader.
    """
    values = _of_filter(which) | {"after_repository": "", "after_path": "", "limit": _AT_ONCE}
    while rows := database.rows(DELIVERED_FILES, values):
        for repository_id, name, path, sha, delivered_at in rows:
            yield DeliveredFile(repository_id, name, mask(path), sha, delivered_at)
        values |= {"after_repository": rows[-1][0], "after_path": rows[-1][2]}


def _of_filter(which: DeliveryFilter) -> dict[str, object]:
    return asdict(which) | {"path": like(which.path) if which.path else None}


def _of_links(links: Sequence[LinkIds], path: str | None) -> dict[str, object]:
    return {**pairs(links), "path": like(path) if path else None}
