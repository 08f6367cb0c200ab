"""Reads and writes the data of snapshot jobs: link status, delivery records, stored commit.

The link's lock is the session advisory lock of its job id. A job holds it while it scans the link.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from uuid import uuid4

from psycopg.rows import TupleRow

from docora_ops.database.link_rows import (
    LOCK_KEY,
    LOCK_LINK,
    LOCKED_KEYS,
    OF_LINK,
    STATE,
    as_link,
    lock_link,
)
from docora_ops.database.postgres import Database, Session
from docora_ops.errors import PostgresDeniedError
from docora_ops.links import Link, LinkRef, LinkStatus, Payload

_KEY = LOCK_KEY.format(job_id="%(job_id)s")

# Returns the link as it was before, its secrets, and whether this job has taken the lock.
BEGIN_SCAN = f"""
WITH lock AS MATERIALIZED (SELECT pg_try_advisory_lock({_KEY}) AS is_taken),
begun AS (
    UPDATE docora.app_repositories SET status = 'scanning' FROM lock
    WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s AND lock.is_taken
    RETURNING 1
)
SELECT {STATE}, l.github_token_encrypted, a.client_auth_key_encrypted, EXISTS (SELECT FROM begun)
{OF_LINK}
"""

# A proxy that pools transactions may run this in a session that does not hold the lock.
_KEEPS_LINK = f"""pg_backend_pid() = %(session_id)s AND EXISTS (
    SELECT FROM ({LOCKED_KEYS}) locked WHERE pid = %(session_id)s AND key = {_KEY}
)"""

END_SCAN = f"""
WITH ended AS (
    UPDATE docora.app_repositories
    SET status = 'synced', last_scanned_at = now(), retry_count = 0, last_error = NULL
    WHERE id = %(id)s
    RETURNING 1
)
SELECT {_KEEPS_LINK}, EXISTS (SELECT FROM ended)
"""

# Changes nothing if the link is gone, if the session has lost the link's lock, or if the stored
# commit is another one or lacks files. The row stays locked until the commit, so whoever finds the
# link's lock free sees the new status.
END_UNCHANGED_SCAN = f"""
WITH unchanged AS (
    SELECT s.id FROM docora.repository_snapshots s
    WHERE s.repository_id = %(repository_id)s AND s.commit_sha = %(commit_sha)s
        AND (SELECT count(*) FROM docora.snapshot_files WHERE snapshot_id = s.id) = %(files)s
        AND {_KEEPS_LINK}
), ended AS (
    UPDATE docora.app_repositories l
    SET status = 'synced', last_scanned_at = now(), retry_count = 0, last_error = NULL
    FROM unchanged WHERE l.id = %(id)s
    RETURNING unchanged.id
)
UPDATE docora.repository_snapshots s SET branch = %(branch)s, scanned_at = now()
FROM ended WHERE s.id = ended.id
RETURNING pg_advisory_unlock({_KEY})
"""

AWAIT_LINK = f"SELECT pg_advisory_xact_lock({_KEY})"

FAIL_SCAN = """
UPDATE docora.app_repositories
SET retry_count = retry_count + 1, last_error = %(error)s,
    status = CASE WHEN retry_count + 1 >= %(max_attempts)s OR %(tries_left)s <= 0
        THEN 'failed' ELSE 'pending_snapshot' END
WHERE id = %(id)s
RETURNING status, retry_count
"""

RELEASE_SCAN = """
UPDATE docora.app_repositories SET status = 'pending_snapshot'
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s AND status = 'scanning'
"""


@dataclass(frozen=True)
class Failure:
    """A failure of a job. The link becomes `failed` after `max_attempts`, or with no tries left."""

    app_id: str
    repository_id: str
    error: str
    tries_left: int
    max_attempts: int


class Refusal(StrEnum):
    """Why a job may not begin or continue."""

    GONE = "gone"
    BUSY = "busy"  # another job is scanning the link
    LOCKED = "locked"  # the link is not `scanning`, but locked: a job begins or ends
    LOST = "lost"  # the job has lost its session or the link's lock


@dataclass(frozen=True)
class Ending:
    """A link's status and failures after its job has failed.

    status: `Refusal.GONE` if the link is gone.
    is_counted: whether `fail_scan` counted the failure.
    """

    status: str
    retry_count: int
    link_id: str
    is_counted: bool = True


def begin_scan(session: Session, app_id: str, repository_id: str) -> tuple[Link, Payload] | Refusal:
    """Takes the link's lock for the session, and sets the link to `scanning`.

    If the retry that has queued the job has not committed yet, waits for the commit. Returns the
    link as it was before, and its payload; or the reason not to begin.
    """
    ids = {"app_id": app_id, "repository_id": repository_id, "job_id": f"{app_id}-{repository_id}"}
    # A statement that waits for the row would read its app and repository as before the wait. If
    # Postgres crashes and loses this commit, the scan is simply repeated.
    _, rows = session.pipeline([LOCK_LINK, BEGIN_SCAN], ids)
    if not rows:
        return Refusal.GONE
    [(*state, token, auth_key, has_begun)] = rows
    link = as_link(tuple(state))
    if not has_begun:
        # The row is locked, so the status can't change meanwhile.
        return Refusal.BUSY if link.status == LinkStatus.SCANNING else Refusal.LOCKED
    payload = Payload(*(*state[1:8], token, auth_key))
    return replace(link, payload=payload), payload


def may_deliver(session: Session, ref: LinkRef) -> Refusal | None:
    """Returns why no file may be sent to the app; None if files may be sent."""
    app_exists = "EXISTS (SELECT FROM docora.apps WHERE app_id = %(app_id)s)"
    return _refusal(session, ref, f"SELECT {_KEEPS_LINK}, {app_exists}")


def end_scan(session: Session, ref: LinkRef) -> Refusal | None:
    """Sets the link to `synced`. Returns why the caller must roll back; None if it need not."""
    return _refusal(session, ref, END_SCAN)


def end_unchanged_scan(
    session: Session, ref: LinkRef, commit_sha: str, branch: str, files: int
) -> bool:
    """Sets the link to `synced` and releases its lock if the commit is already stored in full.

    Also updates branch and time of the stored commit. Returns False, and changes nothing, if
    another commit is stored, if files are missing, or if the link or its lock is gone.

    files: the number of files that the stored commit must have.
    """
    values = asdict(ref) | {"job_id": ref.job_id, "session_id": session.id}
    values |= {"commit_sha": commit_sha, "branch": branch, "files": files}
    _, ended = session.pipeline([LOCK_SNAPSHOT, END_UNCHANGED_SCAN], values, waits_for_disk=True)
    return bool(ended)


def _refusal(session: Session, ref: LinkRef, sql: str) -> Refusal | None:
    values = asdict(ref) | {"job_id": ref.job_id, "session_id": session.id}
    [(is_kept, exists)] = session.rows(sql, values)
    if not is_kept:
        return Refusal.LOST
    return None if exists else Refusal.GONE


def fail_scan(database: Database, failure: Failure) -> Ending:
    """Counts a failure if the link is `scanning`, or if it is pending and no tries are left.

    Otherwise, changes nothing: either the job itself has set the status, or the job had not begun
    and will be tried again. Returns the status and failures of the link afterwards.

    Waits for the link's lock, which the end of the job's session releases. Raises LinkLockedError
    if a session holds the lock for too long.
    """
    with database.transaction():
        database.execute(AWAIT_LINK, {"job_id": f"{failure.app_id}-{failure.repository_id}"})
        link = lock_link(database, failure.app_id, failure.repository_id)
        if link is None:
            return Ending(Refusal.GONE, 0, "", is_counted=False)
        is_uncounted = link.status == LinkStatus.SCANNING or (
            link.status == LinkStatus.PENDING_SNAPSHOT and failure.tries_left <= 0
        )
        if not is_uncounted:
            return Ending(link.status, link.retry_count, link.ref.id, is_counted=False)
        [(status, retry_count)] = database.rows(FAIL_SCAN, asdict(failure) | {"id": link.ref.id})
        return Ending(status, retry_count, link.ref.id)


def release_scan(database: Database, app_id: str, repository_id: str) -> None:
    """Sets the link of a job from `scanning` to `pending_snapshot`.

    Waits for the link's lock, which the end of the job's session releases. Raises LinkLockedError
    if a session holds the lock for too long.
    """
    with database.transaction():
        database.execute(AWAIT_LINK, {"job_id": f"{app_id}-{repository_id}"})
        database.execute(RELEASE_SCAN, {"app_id": app_id, "repository_id": repository_id})


SOME_AUTH_KEYS = """
SELECT client_auth_key_encrypted FROM docora.apps ORDER BY random() LIMIT 100
"""


def some_auth_keys(database: Database) -> list[str]:
    """Returns the encrypted auth keys of some apps; an empty list if the role may not read them."""
    try:
        return [key for (key,) in database.rows(SOME_AUTH_KEYS)]
    except PostgresDeniedError:
        return []


READ_DELIVERIES = """
SELECT file_path, file_sha FROM docora.app_delivered_files
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s
ORDER BY file_path COLLATE "C"
"""

RECORD_DELIVERY = """
INSERT INTO docora.app_delivered_files (app_id, repository_id, file_path, file_sha, delivered_at)
SELECT app_id, repository_id, %(path)s, %(sha)s, now()
FROM docora.app_repositories WHERE id = %(id)s::uuid
ON CONFLICT (app_id, repository_id, file_path)
    DO UPDATE SET file_sha = excluded.file_sha, delivered_at = excluded.delivered_at
"""

REMOVE_DELIVERY = """
WITH removed AS (
    DELETE FROM docora.app_delivered_files
    WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s AND file_path = %(path)s
)
SELECT FROM docora.app_repositories WHERE id = %(id)s::uuid
"""


def read_deliveries(database: Database, ref: LinkRef) -> Iterator[TupleRow]:
    """Streams path and SHA-256 of each file that the app has, sorted by the bytes of the path."""
    return database.stream(READ_DELIVERIES, asdict(ref))


def record_delivery(session: Session, ref: LinkRef, path: str, sha: str | None) -> bool:
    """Records a delivered file, or removes the record of a deleted file (`sha` is None).

    Returns False if the link is gone.
    """
    sql = RECORD_DELIVERY if sha else REMOVE_DELIVERY
    return session.execute(sql, asdict(ref) | {"path": path, "sha": sha}) > 0


# Joins the apps, because the primary key of the delivery records begins with the app.
HAD_COMMIT = """
(SELECT FROM docora.repository_snapshots WHERE repository_id = %(repository_id)s)
UNION ALL
(SELECT FROM docora.apps a JOIN docora.app_delivered_files f ON f.app_id = a.app_id
 WHERE f.repository_id = %(repository_id)s LIMIT 1)
"""

# A second job of the repository waits here until the first one has stored its files. Another
# statement then counts these files: this one would see them as they were before the wait.
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


def had_commit(database: Database, repository_id: str) -> bool:
    """Tells whether the repository has a stored commit or delivery records."""
    return bool(database.rows(HAD_COMMIT, {"repository_id": repository_id}))


def store_snapshot(
    database: Database,
    repository_id: str,
    commit_sha: str,
    branch: str,
    files: Sequence[tuple[str, str, int]],
) -> None:
    """Replaces the stored commit of the repository in the caller's transaction.

    Keeps the stored files if they are of the same commit and equal in number.

    files: path, SHA-256 and size of each.
    """
    values = {"repository_id": repository_id, "commit_sha": commit_sha, "branch": branch}
    database.execute(LOCK_SNAPSHOT, values)
    stored = database.rows(COUNT_SNAPSHOT_FILES, values)
    [(id_,)] = database.rows(UPSERT_SNAPSHOT, values)
    if stored == [(len(files),)]:
        return
    database.execute("DELETE FROM docora.snapshot_files WHERE snapshot_id = %(id)s", {"id": id_})
    database.copy(
        "COPY docora.snapshot_files (id, snapshot_id, path, sha, size) FROM STDIN",
        ((uuid4(), id_, path, sha, size) for path, sha, size in files),
    )
