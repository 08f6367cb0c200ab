"""Rows that finding and repairing drift needs."""

from collections.abc import Collection, Iterable, Iterator
from sys import intern

from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef, ids_of_job

# A new link gets its job a moment later, so it is left out for five minutes. One that is scanned
# has had its job, and one that is asked for by id is wanted whatever its age.
UNFINISHED_LINKS = """
SELECT id::text, app_id, repository_id, status FROM docora.app_repositories
WHERE (app_id, repository_id) > (%(last_app_id)s, %(last_repository_id)s)
  AND status IN ('pending_snapshot', 'scanning')
  AND (status = 'scanning' OR %(id)s::uuid IS NOT NULL
       OR created_at < now() - interval '5 minutes')
  AND (%(app_id)s::text IS NULL OR app_id = %(app_id)s)
  AND (%(id)s::uuid IS NULL OR id = %(id)s::uuid)
ORDER BY app_id, repository_id LIMIT %(size)s
"""

_UNFINISHED = """status IN ('pending_snapshot', 'scanning')
  AND (status = 'scanning' OR created_at < now() - interval '5 minutes')"""

# Without an order: with statistics from before a bulk change, Postgres would walk through all links
# in that order. Materialized, or it would read the whole table up to the limit for the same reason.
SOME_UNFINISHED_LINKS = f"""
WITH unfinished AS MATERIALIZED (
    SELECT id::text, app_id, repository_id, status FROM docora.app_repositories
    WHERE {_UNFINISHED}
)
SELECT * FROM unfinished LIMIT %(most)s
"""

COUNT_UNFINISHED_LINKS = f"""
SELECT count(*) FROM docora.app_repositories
WHERE {_UNFINISHED}
"""

# The limit keeps Postgres from reading the whole table: it looks up one link after the other.
LINKED_JOBS = """
SELECT job_id FROM unnest(%(job_ids)s::text[]) AS job_id
CROSS JOIN LATERAL (
    SELECT FROM docora.app_repositories
    WHERE app_id = split_part(job_id, '-', 1) AND repository_id = split_part(job_id, '-', 2) LIMIT 1
) l
"""

# An INSERT of a link takes a key share lock on its repository's row, so it waits for this lock.
LOCK_REPOSITORIES = """
SELECT repository_id FROM docora.repositories WHERE repository_id = ANY (%(ids)s::text[])
FOR UPDATE SKIP LOCKED
"""

KNOWN_REPOSITORIES = """
SELECT repository_id FROM docora.repositories WHERE repository_id = ANY (%(ids)s::text[])
"""


def unfinished_links(
    database: Database, size: int, *, app_id: str | None, link_id: str | None
) -> Iterator[list[tuple[LinkRef, str]]]:
    """Yields links that should have a live job, and their statuses: all, of one app, or one link.

    Yields `size` at a time, in no transaction. Leaves out links that were made in the last five
    minutes, except for a single one.
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
        links = _with_statuses(rows)
        yield links
        last = links[-1][0]


def some_unfinished_links(database: Database, most: int) -> list[tuple[LinkRef, str]]:
    """Returns `most` links that should have a live job, and their statuses, in no order."""
    return _with_statuses(database.rows(SOME_UNFINISHED_LINKS, {"most": most}))


def count_unfinished_links(database: Database) -> int:
    """Counts the links that should have a live job."""
    [(count,)] = database.rows(COUNT_UNFINISHED_LINKS)
    return int(count)


def _with_statuses(rows: Iterable[tuple[str, str, str, str]]) -> list[tuple[LinkRef, str]]:
    # Interned, since apps and repositories have many links.
    return [
        (LinkRef(id_, intern(app_id), intern(repository_id)), status)
        for id_, app_id, repository_id, status in rows
    ]


def linked_jobs(database: Database, job_ids: Iterable[str]) -> set[str]:
    """Returns the job ids that have a link."""
    valid = [job_id for job_id in job_ids if ids_of_job(job_id)]
    return {each for (each,) in database.rows(LINKED_JOBS, {"job_ids": valid})} if valid else set()


def lock_against_new_links(database: Database, repository_ids: Collection[str]) -> set[str]:
    """Locks the repositories, so that they get no new link until the transaction ends.

    Returns the ids of the ones that are locked now, or do not exist; the rest is locked elsewhere.
    """
    ids = {"ids": list(repository_ids)}
    locked = {id_ for (id_,) in database.rows(LOCK_REPOSITORIES, ids)}
    known = {id_ for (id_,) in database.rows(KNOWN_REPOSITORIES, ids)}
    return locked | (set(repository_ids) - known)
