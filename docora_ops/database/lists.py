"""SQL for lists of links, and for one link with all that is stored about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docora_ops.database.connection import Database
from docora_ops.database.links import COLUMNS, LINKS, MATCHES, parameters_of
from docora_ops.error_groups import LONGEST
from docora_ops.links import Link, LinkFilter

_GROUPS = {
    "app": "a.app_id, a.app_name, a.base_url, a.email",
    "repository": "r.repository_id, r.owner || '/' || r.name",
    "status": "l.status",
}


def read_page(database: Database, which: LinkFilter, limit: int, page: int) -> list[Link]:
    """Returns a page of the links that match, sorted by app id, then repository id."""
    sql = f"""
        SELECT {COLUMNS} FROM {LINKS} WHERE {MATCHES}
        ORDER BY l.app_id, l.repository_id LIMIT %(limit)s OFFSET %(offset)s
    """
    window = {"limit": limit, "offset": (page - 1) * limit}
    return [Link(*row) for row in database.rows(sql, parameters_of(which) | window)]


def count_groups(
    database: Database, which: LinkFilter, group: str
) -> list[tuple[list[Any], int, int, datetime | None]]:
    """Counts the links that match by `app`, `repository` or `status`, most links first.

    Returns per group: its columns, the numbers of links and of apps, and the newest good scan.
    """
    columns = _GROUPS[group]
    sql = f"""
        SELECT {columns}, count(*) AS links, count(DISTINCT l.app_id), max(l.last_scanned_at)
        FROM {LINKS} WHERE {MATCHES} GROUP BY {columns} ORDER BY links DESC, 1
    """
    rows = database.rows(sql, parameters_of(which))
    return [(columns, links, apps, at) for *columns, links, apps, at in rows]


def count_errors(database: Database, which: LinkFilter) -> Iterator[Sequence[Any]]:
    """Yields the input of `group_errors` for the links that match."""
    sql = f"""
        SELECT l.app_id, a.app_name, left(l.last_error, %(longest)s) AS error, count(*),
            max(l.last_scanned_at)
        FROM {LINKS} WHERE {MATCHES} GROUP BY 1, 2, 3
    """
    yield from database.stream(sql, parameters_of(which) | {"longest": LONGEST + 1})


@dataclass(frozen=True)
class StoredCommit:
    """The commit that a repository was at when it was last scanned for any link."""

    commit_sha: str
    branch: str
    scanned_at: datetime
    files: int


@dataclass(frozen=True)
class DeliveredFile:
    """A file that the app has received."""

    path: str
    sha: str
    delivered_at: datetime


def read_commit(database: Database, repository_id: str) -> StoredCommit | None:
    """Returns the stored commit of a repository; None if there is none."""
    sql = """
        SELECT commit_sha, branch, scanned_at,
            (SELECT count(*) FROM snapshot_files f WHERE f.snapshot_id = s.id)
        FROM repository_snapshots s WHERE repository_id = %(id)s
    """
    rows = database.rows(sql, {"id": repository_id})
    return StoredCommit(*rows[0]) if rows else None


def read_deliveries(
    database: Database, link: Link, limit: int | None
) -> tuple[int, list[DeliveredFile]]:
    """Returns the number of files that were delivered, and the latest `limit` of them."""
    where = "app_delivered_files WHERE app_id = %(app)s AND repository_id = %(repository)s"
    parameters = {"app": link.app_id, "repository": link.repository_id, "limit": limit}
    [(count,)] = database.rows(f"SELECT count(*) FROM {where}", parameters)
    sql = f"""
        SELECT file_path, file_sha, delivered_at FROM {where}
        ORDER BY delivered_at DESC, file_path LIMIT %(limit)s
    """
    return int(count), [DeliveredFile(*row) for row in database.rows(sql, parameters)]
