"""The stored snapshot of a repository: its newest commit and the files in it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from docora_ops.database.postgres import Database

# By way of the apps: the primary key of the deliveries begins with them.
HAD_COMMIT = """
SELECT EXISTS (SELECT FROM docora.repository_snapshots WHERE repository_id = %(repository_id)s)
    OR EXISTS (
        SELECT FROM docora.apps a JOIN docora.app_delivered_files f ON f.app_id = a.app_id
        WHERE f.repository_id = %(repository_id)s
    )
"""

# A second job of the repository waits here, and then counts the files that the first has stored.
LOCK_SNAPSHOT = """
SELECT id FROM docora.repository_snapshots WHERE repository_id = %(repository_id)s FOR UPDATE
"""

COUNT_SNAPSHOT_FILES = """
SELECT count(f.id) FROM docora.repository_snapshots s
LEFT JOIN docora.snapshot_files f ON f.snapshot_id = s.id
WHERE s.repository_id = %(repository_id)s AND s.commit_sha = %(commit_sha)s
GROUP BY s.id
"""

UPSERT_SNAPSHOT = """
INSERT INTO docora.repository_snapshots (id, repository_id, commit_sha, branch, scanned_at)
VALUES (gen_random_uuid(), %(repository_id)s, %(commit_sha)s, %(branch)s, now())
ON CONFLICT (repository_id) DO UPDATE SET commit_sha = excluded.commit_sha,
    branch = excluded.branch, scanned_at = excluded.scanned_at
RETURNING id
"""

DELETE_SNAPSHOT_FILES = "DELETE FROM docora.snapshot_files WHERE snapshot_id = %(snapshot_id)s"

COPY_SNAPSHOT_FILES = "COPY docora.snapshot_files (id, snapshot_id, path, sha, size) FROM STDIN"


def had_commit(database: Database, repository_id: str) -> bool:
    """Returns whether the repository has a snapshot, or an app has received a file of it."""
    return database.row(HAD_COMMIT, {"repository_id": repository_id}) == (True,)


def store_snapshot(
    database: Database,
    repository_id: str,
    commit_sha: str,
    branch: str,
    files: Sequence[tuple[str, str, int]],
) -> None:
    """Replaces the repository's snapshot; `files` has path, SHA-256 and size of each file.

    The files stay as they are if equally many are stored with this commit. Runs in the caller's
    transaction.
    """
    values = {"repository_id": repository_id, "commit_sha": commit_sha, "branch": branch}
    _, stored, [(snapshot_id,)] = database.together(
        (LOCK_SNAPSHOT, values), (COUNT_SNAPSHOT_FILES, values), (UPSERT_SNAPSHOT, values)
    )
    if stored == [(len(files),)]:
        return
    database.execute(DELETE_SNAPSHOT_FILES, {"snapshot_id": snapshot_id})
    database.copy(
        COPY_SNAPSHOT_FILES,
        ((uuid4(), snapshot_id, path, sha, size) for path, sha, size in files),
    )
