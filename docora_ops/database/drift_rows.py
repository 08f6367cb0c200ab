"""Rows that finding and repairing drift needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from sys import intern

from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef, ids_of_job

# A new link gets its job a moment later, so it is left out for five minutes. One that is scanned
# has had its job, and one that is asked for by id is wanted whatever its age.
UNFINISHED_LINKS = """
SELECT id::text, app_id, repository_id, status FROM app_repositories
WHERE (app_id, repository_id) > (%(last_app_id)s, %(last_repository_id)s)
  AND status IN ('pending_snapshot', 'scanning')
  AND (status = 'scanning' OR %(id)s::uuid IS NOT NULL
       OR created_at < now() - interval '5 minutes')
  AND (%(app_id)s::text IS NULL OR app_id = %(app_id)s)
  AND (%(id)s::uuid IS NULL OR id = %(id)s::uuid)
ORDER BY app_id, repository_id LIMIT %(size)s
"""

# The limit keeps Postgres from reading the whole table: it looks up one link after the other.
LINK_STATUSES = """
SELECT l.app_id, l.repository_id, l.status
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS ids(app_id, repository_id)
CROSS JOIN LATERAL (
    SELECT app_id, repository_id, status FROM app_repositories
    WHERE app_id = ids.app_id AND repository_id = ids.repository_id LIMIT 1
) l
"""

# An INSERT of a link takes a key share lock on its repository's row, so it waits for this lock.
LOCK_REPOSITORIES = """
SELECT repository_id FROM repositories WHERE repository_id = ANY (%(ids)s::text[])
ORDER BY repository_id FOR UPDATE
"""

LOCK_FREE_REPOSITORIES = LOCK_REPOSITORIES + "SKIP LOCKED"

KNOWN_REPOSITORIES = """
SELECT repository_id FROM repositories WHERE repository_id = ANY (%(ids)s::text[])
"""

NAMES_OF_IDS = """
SELECT ids.app_id, ids.repository_id, a.app_name, r.owner || '/' || r.name
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS ids(app_id, repository_id)
LEFT JOIN apps a USING (app_id) LEFT JOIN repositories r USING (repository_id)
"""


@dataclass(frozen=True, slots=True)
class UnfinishedLink:
    """A link that is pending or being scanned."""

    ref: LinkRef
    status: str


def unfinished_links(
    database: Database, size: int, *, app_id: str | None, link_id: str | None
) -> Iterator[list[UnfinishedLink]]:
    """Yields the links that should have a live job, `size` at a time: all, of one app, or one link.

    Links that were made in the last five minutes are left out, except for a single one. No
    transaction is open between two pages.
    """
    last = LinkRef("", "", "")
    while True:
        parameters = {
            "app_id": app_id,
            "id": link_id,
            "last_app_id": last.app_id,
            "last_repository_id": last.repository_id,
            "size": size,
        }
        rows = database.rows(UNFINISHED_LINKS, parameters)
        if not rows:
            return
        # Interned, since apps and repositories have many links.
        links = [
            UnfinishedLink(LinkRef(row[0], intern(row[1]), intern(row[2])), intern(row[3]))
            for row in rows
        ]
        yield links
        last = links[-1].ref


def link_statuses(database: Database, job_ids: Iterable[str]) -> dict[str, str]:
    """Returns the status of the link of each job id that has one."""
    pairs = [ids for ids in map(ids_of_job, job_ids) if ids is not None]
    if not pairs:
        return {}
    rows = database.rows(LINK_STATUSES, _columns(pairs))
    return {f"{app_id}-{repository_id}": status for app_id, repository_id, status in rows}


def lock_against_new_links(
    database: Database, repository_ids: Collection[str], *, wait: bool
) -> set[str]:
    """Locks the repositories, so that they get no new link until the transaction ends.

    Returns the ids of those that were locked, or that do not exist. Repositories that are locked
    elsewhere are left out; with `wait`, raises LinkLockedError if one of them stays locked.
    """
    ids = {"ids": list(repository_ids)}
    sql = LOCK_REPOSITORIES if wait else LOCK_FREE_REPOSITORIES
    locked = {row[0] for row in database.rows(sql, ids)}
    known = {row[0] for row in database.rows(KNOWN_REPOSITORIES, ids)}
    return locked | (set(repository_ids) - known)


def names_of(
    database: Database, pairs: Collection[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    """Returns app name and `owner/name`, where they exist, by app and repository id."""
    rows = database.rows(NAMES_OF_IDS, _columns(pairs))
    return {
        (row[0], row[1]): (row[2] and intern(row[2]), row[3] and intern(row[3])) for row in rows
    }


def _columns(pairs: Collection[tuple[str, str]]) -> dict[str, list[str]]:
    return {
        "app_ids": [app_id for app_id, _ in pairs],
        "repository_ids": [repository_id for _, repository_id in pairs],
    }
