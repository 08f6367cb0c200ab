"""Finds the links whose jobs to check, and locks repositories against new links."""

from collections.abc import Collection, Iterator, Sequence
from sys import intern

from docora_ops.database.link_rows import RESCAN_IS_DUE
from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef

# A new link gets its job a moment after its row. It is therefore left out for five minutes, unless
# it is being scanned.
_UNFINISHED = """FROM docora.app_repositories WHERE status IN ('pending_snapshot', 'scanning')
    AND (status = 'scanning'
         OR NOT %(only_stuck)s::boolean AND created_at < now() - interval '5 minutes')
    AND app_id <> ALL (%(held)s::text[])
"""

# Materialized: with statistics from before a bulk change, Postgres would otherwise go through the
# table in order until it has found `limit` links.
UNFINISHED_LINKS = f"""
WITH unfinished AS MATERIALIZED (SELECT id::text, app_id, repository_id, status {_UNFINISHED})
SELECT * FROM unfinished ORDER BY app_id, repository_id LIMIT %(limit)s
"""

# Links that should have a live job, and links that will get one. A link of the second kind may
# already have a job that reads as waiting, but is in no list of the queue.
LINKS_TO_CHECK = f"""
SELECT id::text, app_id, repository_id, status FROM docora.app_repositories l
WHERE (
    status = 'scanning'
    OR %(id)s::uuid IS NOT NULL AND status IN ('pending_snapshot', 'failed', 'synced')
    OR status = 'pending_snapshot' AND created_at < now() - interval '5 minutes'
    OR %(rescan_interval_ms)s::bigint IS NOT NULL AND (status = 'failed' OR {RESCAN_IS_DUE})
)
AND (%(only_app)s::text IS NULL OR app_id = %(only_app)s)
AND (%(id)s::uuid IS NULL OR id = %(id)s::uuid)
AND (app_id, repository_id) > (%(app_id)s::text, %(repository_id)s::text)
ORDER BY app_id, repository_id LIMIT %(limit)s
"""

# With outdated statistics, Postgres might otherwise sort all links for each page.
_READ_IN_ORDER = """
SELECT set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)
"""

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
    only_stuck: bool = False,
    limit: int | None = None,
    held: Sequence[str] = (),
) -> list[tuple[LinkRef, str]]:
    """Returns the links that should have a live job, each with its status. Does not look at jobs.

    only_stuck: only `scanning` links, which are stuck if they have no live job.
    held: ids of apps to leave out.
    """
    parameters = {"only_stuck": only_stuck, "limit": limit, "held": list(held)}
    # Interned, because a million links may share the same few ids.
    return [
        (LinkRef(id_, intern(app_id), intern(repository_id)), status)
        for id_, app_id, repository_id, status in database.rows(UNFINISHED_LINKS, parameters)
    ]


def pages_of_links_to_check(
    database: Database,
    *,
    app_id: str | None,
    link_id: str | None,
    rescan_interval_ms: int | None,
    size: int,
) -> Iterator[dict[LinkRef, str]]:
    """Yields pages of links that should have a live job, are failed or are due, with statuses.

    No transaction is open between the pages.

    app_id: only links of this app; None means all apps.
    link_id: only this link, regardless of its age and status; None means all links.
    rescan_interval_ms: a synced link is due this long after its last scan; None omits failed and
        due links.
    """
    only = {"only_app": app_id, "id": link_id, "rescan_interval_ms": rescan_interval_ms}
    after, is_last = {"app_id": "", "repository_id": ""}, False
    while not is_last:
        with database.consistent_reads():
            if link_id is None:
                database.execute(_READ_IN_ORDER)
            rows = database.rows(LINKS_TO_CHECK, only | after | {"limit": size})
        yield {
            LinkRef(id_, intern(app), intern(repository)): intern(status)
            for id_, app, repository, status in rows
        }
        is_last = len(rows) < size
        if rows:
            after = {"app_id": rows[-1][1], "repository_id": rows[-1][2]}


def count_unfinished_links(database: Database, held: Sequence[str]) -> int:
    """Counts the links that should have a live job. `held`: ids of apps to leave out."""
    parameters = {"only_stuck": False, "held": list(held)}
    [(count,)] = database.rows(f"SELECT count(*) {_UNFINISHED}", parameters)
    return int(count)


def lock_against_new_links(database: Database, repository_ids: Collection[str]) -> set[str]:
    """Locks repositories, so that no link to them can be created until the transaction ends.

    Returns the ids that are now locked or do not exist; other sessions have locked the rest.
    """
    rows = database.rows(LOCK_REPOSITORIES, {"ids": list(repository_ids)})
    return {id_ for (id_,) in rows}
