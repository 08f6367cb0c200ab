"""Reading the results of snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.database.postgres import Database
from docora_ops.links import AppCount, LinkRef
from docora_ops.text import mask, mask_cut

READ_RESULTS = """
SELECT followed.id::text, l.app_id, l.repository_id, l.status, left(l.last_error, %(longest)s + 1)
FROM unnest(%(ids)s::uuid[]) AS followed(id)
LEFT JOIN docora.app_repositories l ON l.id = followed.id
WHERE l.id IS NULL OR l.status IN ('synced', 'failed')
"""

READ_UNSYNCED = """
SELECT l.id::text, l.app_id, l.repository_id, l.status
FROM docora.app_repositories l WHERE l.id = ANY (%(ids)s::uuid[]) AND l.status <> 'synced'
"""

COUNT_BY_APP = """
SELECT l.app_id, a.app_name, count(*)
FROM docora.app_repositories l JOIN docora.apps a USING (app_id)
WHERE l.id = ANY (%(ids)s::uuid[])
GROUP BY l.app_id, a.app_name ORDER BY count(*) DESC, l.app_id
"""


_LONGEST_ERROR = 1000
"""Characters of an error that are kept: a wait may be for a million links."""


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """The result of the last snapshot of a link. Only `id` is set if the link is gone."""

    id: str
    ref: LinkRef | None
    status: str | None
    error_message: str | None


def read_results(database: Database, ids: Sequence[str]) -> list[SnapshotResult]:
    """Returns the results of the links with these row ids that are synced, failed or gone."""
    return [
        SnapshotResult(
            id_,
            None if status is None else LinkRef(id_, app_id, repository_id),
            status,
            error and (mask(error) if len(error) <= _LONGEST_ERROR else mask_cut(error[:-1])),
        )
        for id_, app_id, repository_id, status, error in database.rows(
            READ_RESULTS, {"ids": list(ids), "longest": _LONGEST_ERROR}
        )
    ]


def count_by_app(database: Database, ids: Sequence[str]) -> list[AppCount]:
    """Counts the links with these row ids by app, most links first."""
    return [AppCount(*row) for row in database.rows(COUNT_BY_APP, {"ids": list(ids)})]


def read_unsynced(database: Database, ids: Sequence[str]) -> list[tuple[LinkRef, str]]:
    """Returns the links with these row ids that are not synced, each with its status."""
    rows = database.rows(READ_UNSYNCED, {"ids": list(ids)})
    return [(LinkRef(*ref), status) for *ref, status in rows]
