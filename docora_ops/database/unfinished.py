"""What a look for drift reads of the links, and holds fast of what is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from docora_ops.database.postgres import Database
from docora_ops.links import LinkRef

# A link that has just been made gets its job a moment later; one that is asked for by name, or is
# being scanned, has had it.
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

# A new link needs a key share of its repository's row, so as long as we hold this there is none.
LOCK_REPOSITORIES = """
SELECT repository_id FROM repositories WHERE repository_id = ANY (%(ids)s::text[])
ORDER BY repository_id FOR UPDATE
"""

LOCK_FREE_REPOSITORIES = LOCK_REPOSITORIES + "SKIP LOCKED"

KNOWN_REPOSITORIES = """
SELECT repository_id FROM repositories WHERE repository_id = ANY (%(ids)s::text[])
"""

NAMES_OF_IDS = """
SELECT ids.app_id, a.app_name, ids.repository_id, r.owner || '/' || r.name
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[]) AS ids(app_id, repository_id)
LEFT JOIN apps a USING (app_id) LEFT JOIN repositories r USING (repository_id)
"""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A link that is pending or being scanned."""

    ref: LinkRef
    status: str


def unfinished_links(
    database: Database, size: int, *, app_id: str | None, link_id: str | None
) -> Iterator[list[Unfinished]]:
    """Yield the links that should have a live job, `size` at a time: all, of one app, or one link.

    Leaves out links that were made in the last five minutes, except for a single one. No
    transaction is open between two pages.
    """
    last = LinkRef("", "", "")
    while True:
        rows = database.rows(
            UNFINISHED_LINKS,
            {
                "app_id": app_id,
                "id": link_id,
                "last_app_id": last.app_id,
                "last_repository_id": last.repository_id,
                "size": size,
            },
        )
        if not rows:
            return
        links = [Unfinished(LinkRef(*row[:3]), row[3]) for row in rows]
        yield links
        last = links[-1].ref


def lock_against_new_links(
    database: Database, repository_ids: Sequence[str], *, wait: bool
) -> set[str]:
    """Those repositories that get no new link until the transaction ends.

    Included are those that do not exist; missing are those that somebody else holds, unless it is
    to `wait` for them. Raises LinkLockedError then.
    """
    wanted = {"ids": sorted(set(repository_ids))}
    sql = LOCK_REPOSITORIES if wait else LOCK_FREE_REPOSITORIES
    locked = {row[0] for row in database.rows(sql, wanted)}
    known = {row[0] for row in database.rows(KNOWN_REPOSITORIES, wanted)}
    return locked | (set(repository_ids) - known)


def names_of(
    database: Database, pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    """App name and `owner/name` by app and repository id, as far as they exist."""
    parameters = {
        "app_ids": [app_id for app_id, _ in pairs],
        "repository_ids": [repository_id for _, repository_id in pairs],
    }
    return {(row[0], row[2]): (row[1], row[3]) for row in database.rows(NAMES_OF_IDS, parameters)}
