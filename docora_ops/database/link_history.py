"""Reading the history of one link."""

from __future__ import annotations

from docora_ops.database.postgres import Database
from docora_ops.link_details import LinkHistory, Snapshot
from docora_ops.links import LinkRef

LINK_HISTORY = """
SELECT l.created_at, l.last_scanned_at, r.consecutive_failures, d.files, d.last_delivered_at
FROM docora.app_repositories l JOIN docora.repositories r USING (repository_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS files, max(delivered_at) AS last_delivered_at FROM docora.app_delivered_files
    WHERE app_id = l.app_id AND repository_id = l.repository_id
) d
WHERE l.id = %(id)s
"""

LAST_SNAPSHOT = """
SELECT commit_sha, branch, scanned_at,
    (SELECT count(*) FROM docora.snapshot_files WHERE snapshot_id = s.id) AS files
FROM docora.repository_snapshots s WHERE repository_id = %(repository_id)s
"""

_MAY_LOOK = """
SELECT has_column_privilege(c.oid, 'github_token_encrypted', 'SELECT')
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %(schema)s AND relname = 'app_repositories'
"""

_HAS_ONE = (
    "SELECT github_token_encrypted IS NOT NULL FROM docora.app_repositories WHERE id = %(id)s"
)


def has_token(database: Database, ref: LinkRef) -> bool | None:
    """Tells whether a link that exists has a GitHub token; None if our role may not know."""
    if database.row(_MAY_LOOK, {"schema": database.schema}) != (True,):
        return None
    [(answer,)] = database.rows(_HAS_ONE, {"id": ref.id})
    return bool(answer)


def link_history(database: Database, ref: LinkRef) -> LinkHistory:
    """Returns the history of a link that exists."""
    [row] = database.rows(LINK_HISTORY, {"id": ref.id})
    snapshot = database.row(LAST_SNAPSHOT, {"repository_id": ref.repository_id})
    fields = [*row, Snapshot(*snapshot) if snapshot else None]
    return LinkHistory(*fields)
