"""Rows that finding and repairing drift needs."""

from collections.abc import Collection
from sys import intern

from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef

# A new link gets its job a moment later, so it is left out for five minutes. One that is scanned
# has had its job, and one that is asked for by id is wanted whatever its age.
_UNFINISHED = """FROM docora.app_repositories WHERE status IN ('pending_snapshot', 'scanning')
    AND (status = 'scanning' OR NOT %(only_stuck)s::boolean
         AND (%(id)s::uuid IS NOT NULL OR created_at < now() - interval '5 minutes'))
    AND (%(app_id)s::text IS NULL OR app_id = %(app_id)s)
    AND (%(id)s::uuid IS NULL OR id = %(id)s::uuid)
"""

_ANY = {"app_id": None, "id": None, "only_stuck": False}

# Materialized, or Postgres would, with statistics from before a bulk change, read the whole table
# up to the limit.
UNFINISHED_LINKS = f"""
WITH unfinished AS MATERIALIZED (SELECT id::text, app_id, repository_id, status {_UNFINISHED})
SELECT * FROM unfinished LIMIT %(limit)s
"""

COUNT_UNFINISHED_LINKS = f"SELECT count(*) {_UNFINISHED}"

# An INSERT of a link takes a key share lock on its repository's row, so it waits for this lock.
LOCK_REPOSITORIES = """
WITH locked AS (
    SELECT repository_id FROM docora.repositories WHERE repository_id = ANY (%(ids)s::text[])
    FOR UPDATE SKIP LOCKED
)
SELECT repository_id FROM locked
UNION ALL
SELECT wanted FROM unnest(%(ids)s::text[]) AS wanted
WHERE NOT EXISTS (SELECT FROM docora.repositories WHERE repository_id = wanted)
"""


def unfinished_links(
    database: Database,
    *,
    app_id: str | None = None,
    link_id: str | None = None,
    only_stuck: bool = False,
    limit: int | None = None,
) -> list[tuple[LinkRef, str]]:
    """Returns links that should have a live job, and their statuses: all, of one app, or one link.

    Leaves out links that were made in the last five minutes, except for a single one.
    `only_stuck`: only links that are being scanned.
    """
    parameters = {"app_id": app_id, "id": link_id, "only_stuck": only_stuck, "limit": limit}
    # One string for all links of an app or a repository: there may be a million.
    return [
        (LinkRef(id_, intern(app_id), intern(repository_id)), status)
        for id_, app_id, repository_id, status in database.rows(UNFINISHED_LINKS, parameters)
    ]


def count_unfinished_links(database: Database) -> int:
    """Counts the links that should have a live job."""
    [(count,)] = database.rows(COUNT_UNFINISHED_LINKS, _ANY)
    return int(count)


def lock_against_new_links(database: Database, repository_ids: Collection[str]) -> set[str]:
    """Locks the repositories, so that they get no new link until the transaction ends.

    Returns the ids of the ones that are locked now, or do not exist; the rest is locked elsewhere.
    """
    rows = database.rows(LOCK_REPOSITORIES, {"ids": list(repository_ids)})
    return {id_ for (id_,) in rows}
