"""SQL of the snapshot job: the status of its link, delivery records, stored commit, circuit.

Each function is one short transaction, so that nothing depends on the session.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from psycopg.rows import TupleRow

from docora_ops.database.connection import Database
from docora_ops.database.links import COLUMNS, KILLED
from docora_ops.links import Link

LONGEST_PATH = 1024  # characters of a path that the table of delivery records can hold
LONGEST_INDEXED = 2600  # bytes of a path that an index can hold, together with two ids

# Commits without waiting for the disk: if Postgres crashes and loses the commit, the scan or the
# delivery is repeated.
_NO_WAIT = "(SELECT set_config('synchronous_commit', 'off', true)) AS no_wait"
_IS_KILLED = "%(counts_killed)s AND l.status = 'scanning'"
_OF_LINK = "l.app_id = %(app_id)s AND l.repository_id = %(repository_id)s"

_SYNCED = """
    UPDATE app_repositories l SET status = 'synced', last_scanned_at = now(), retry_count = 0,
        last_error = NULL
    WHERE l.id = %(id)s::uuid
"""


@dataclass(frozen=True)
class Circuit:
    """A repository's circuit breaker after a git failure."""

    consecutive_failures: int
    open_until: datetime | None
    has_opened: bool  # by this failure


@dataclass(frozen=True)
class Recipient:
    """An app to send the event `sync_failed` to."""

    app_id: str
    base_url: str
    client_auth_key_encrypted: str = field(repr=False)
    retry_count: int  # of the app's link


def claim(
    database: Database, app_id: str, repository_id: str, *, counts_killed: bool, limit: int
) -> tuple[Link, bool] | None:
    """Sets a link to `scanning`. Returns the link, or None if the link is gone.

    Also returns whether git failures of the repository are counted, or its circuit was opened.

    counts_killed: count a failure if the link is `scanning`, since its last worker was killed. The
        link that is returned is `failed` if it has `limit` failures by then.
    """
    # After a wait for the row, all but WHERE sees its new state: a change of ours may not have been
    # committed yet.
    sql = f"""
        UPDATE app_repositories l SET
            status = CASE WHEN {_IS_KILLED} AND l.retry_count + 1 >= %(limit)s
                THEN 'failed' ELSE 'scanning' END,
            last_error = CASE WHEN {_IS_KILLED} THEN %(error)s ELSE l.last_error END,
            retry_count = l.retry_count + CASE WHEN {_IS_KILLED} THEN 1 ELSE 0 END
        FROM apps a, repositories r, {_NO_WAIT}
        WHERE {_OF_LINK} AND a.app_id = l.app_id AND r.repository_id = l.repository_id
        RETURNING {COLUMNS}, r.consecutive_failures <> 0 OR r.circuit_open_until IS NOT NULL
    """
    values = {"app_id": app_id, "repository_id": repository_id, "error": KILLED}
    rows = database.rows(sql, values | {"limit": limit, "counts_killed": counts_killed})
    return (Link(*rows[0][:-1]), rows[0][-1]) if rows else None


def give_back(database: Database, app_id: str, repository_id: str) -> None:
    """Sets a link from `scanning` to `pending_snapshot`, and counts no failure."""
    sql = f"""
        UPDATE app_repositories l SET status = 'pending_snapshot'
        WHERE {_OF_LINK} AND status = 'scanning'
    """
    database.execute(sql, {"app_id": app_id, "repository_id": repository_id})


def fail(
    database: Database, app_id: str, repository_id: str, error: str, *, limit: int, is_last: bool
) -> str | None:
    """Counts a failure: `failed` at the `limit`th one, or if the job has no further try.

    Returns the new status; None if the link is gone.
    """
    sql = f"""
        UPDATE app_repositories l SET retry_count = retry_count + 1, last_error = %(error)s,
            status = CASE WHEN retry_count + 1 >= %(limit)s OR %(is_last)s
                THEN 'failed' ELSE 'pending_snapshot' END
        WHERE {_OF_LINK} RETURNING status
    """
    values = {"app_id": app_id, "repository_id": repository_id, "error": error}
    rows = database.rows(sql, values | {"limit": limit, "is_last": is_last})
    return str(rows[0][0]) if rows else None


def fail_killed(database: Database, app_id: str, repository_id: str) -> None:
    """Sets a link that is `scanning` to `failed`: its worker was killed, and no try is left."""
    sql = f"""
        UPDATE app_repositories l SET retry_count = retry_count + 1, last_error = %(error)s,
            status = 'failed' WHERE {_OF_LINK} AND status = 'scanning'
    """
    values = {"app_id": app_id, "repository_id": repository_id, "error": KILLED}
    database.execute(sql, values)


def read_deliveries(database: Database, link: Link) -> Sequence[TupleRow]:
    """Returns path and SHA-256 of each file that the app has, sorted by the bytes of the path."""
    sql = f"""
        SELECT file_path, file_sha FROM app_delivered_files l WHERE {_OF_LINK}
        ORDER BY file_path COLLATE "C"
    """
    return database.rows(sql, _ids(link))


def record_delivery(database: Database, link: Link, path: str, sha: str | None) -> bool:
    """Records a delivered file, or removes the record of a deleted file (`sha` is None).

    Returns False if the link is gone.
    """
    if sha is None:
        sql = f"""
            WITH removed AS (
                DELETE FROM app_delivered_files l WHERE {_OF_LINK} AND file_path = %(path)s
            )
            SELECT FROM app_repositories, {_NO_WAIT} WHERE id = %(id)s::uuid
        """
    else:
        sql = f"""
            INSERT INTO app_delivered_files
                (app_id, repository_id, file_path, file_sha, delivered_at)
            SELECT app_id, repository_id, %(path)s, %(sha)s, now()
            FROM app_repositories, {_NO_WAIT} WHERE id = %(id)s::uuid
            ON CONFLICT (app_id, repository_id, file_path)
                DO UPDATE SET file_sha = excluded.file_sha, delivered_at = excluded.delivered_at
        """
    return database.execute(sql, _ids(link) | {"path": path, "sha": sha}) > 0


def had_commit(database: Database, repository_id: str) -> bool:
    """Tells whether the repository has a stored commit or delivery records."""
    # Joins the apps, because the primary key of the delivery records begins with the app.
    sql = """
        (SELECT FROM repository_snapshots WHERE repository_id = %(repository_id)s)
        UNION ALL
        (SELECT FROM apps a JOIN app_delivered_files f ON f.app_id = a.app_id
         WHERE f.repository_id = %(repository_id)s LIMIT 1)
    """
    return bool(database.rows(sql, {"repository_id": repository_id}))


def end_scan(
    database: Database,
    link: Link,
    commit: tuple[str, str] | None,
    files: Sequence[tuple[str, str, int]],
) -> bool:
    """Stores the commit, and sets the link to `synced`, in one transaction.

    Keeps the stored files if they are of the same commit and equal in number. Returns False, and
    changes nothing, if the link is gone.

    commit: its hash and its branch; None if the repository has none.
    files: path, SHA-256 and size of each.
    """
    sha, branch = commit or (None, None)
    values = _ids(link) | {"commit_sha": sha, "branch": branch, "count": len(files)}
    touch = f"""
        WITH stored AS (
            UPDATE repository_snapshots s SET scanned_at = now()
            WHERE repository_id = %(repository_id)s AND commit_sha = %(commit_sha)s
                AND branch = %(branch)s AND %(count)s =
                    (SELECT count(*) FROM snapshot_files f WHERE f.snapshot_id = s.id)
            RETURNING id
        )
        {_SYNCED} AND EXISTS (SELECT FROM stored)
    """
    if commit is not None and database.execute(touch, values):
        return True
    # A second job of the repository waits here for the first one. The next statement then sees the
    # files that the first one has stored.
    store = """
        INSERT INTO repository_snapshots (id, repository_id, commit_sha, branch, scanned_at)
        VALUES (gen_random_uuid(), %(repository_id)s, %(commit_sha)s, %(branch)s, now())
        ON CONFLICT (repository_id) DO UPDATE SET commit_sha = excluded.commit_sha,
            branch = excluded.branch, scanned_at = excluded.scanned_at
        RETURNING id
    """
    with database.transaction():
        if not database.execute(_SYNCED, values):
            return False
        if commit is not None:
            [(id_,)] = database.rows(store, values)
            database.execute("DELETE FROM snapshot_files WHERE snapshot_id = %(id)s", {"id": id_})
            database.copy(
                "COPY snapshot_files (id, snapshot_id, path, sha, size) FROM STDIN",
                ((uuid4(), id_, path, sha, size) for path, sha, size in files),
            )
    return True


def count_git_failure(
    database: Database, repository_id: str, *, threshold: int, cooldown: float
) -> Circuit | None:
    """Counts a git failure. From `threshold` failures on, opens the circuit for `cooldown` seconds.

    Returns the new state of the circuit; None if the repository is gone.
    """
    sql = """
        UPDATE repositories r
        SET consecutive_failures = r.consecutive_failures + 1, updated_at = now(),
            circuit_open_until = CASE WHEN r.consecutive_failures + 1 >= %(threshold)s
                THEN now() + make_interval(secs => %(cooldown)s) ELSE r.circuit_open_until END
        FROM (
            SELECT repository_id, circuit_open_until > now() AS was_open FROM repositories
            WHERE repository_id = %(repository_id)s FOR UPDATE
        ) before
        WHERE r.repository_id = before.repository_id
        RETURNING r.consecutive_failures, r.circuit_open_until,
            r.consecutive_failures >= %(threshold)s AND before.was_open IS NOT TRUE
    """
    values = {"repository_id": repository_id, "threshold": threshold, "cooldown": cooldown}
    rows = database.rows(sql, values)
    return Circuit(*rows[0]) if rows else None


def read_recipients(database: Database, repository_id: str) -> list[Recipient]:
    """Returns every app that is linked to the repository."""
    sql = """
        SELECT a.app_id, a.base_url, a.client_auth_key_encrypted, l.retry_count
        FROM app_repositories l JOIN apps a USING (app_id)
        WHERE l.repository_id = %(repository_id)s ORDER BY a.app_id
    """
    return [Recipient(*row) for row in database.rows(sql, {"repository_id": repository_id})]


def some_auth_keys(database: Database) -> list[str]:
    """Returns the encrypted auth keys of up to 100 apps, chosen at random."""
    sql = "SELECT client_auth_key_encrypted FROM apps ORDER BY random() LIMIT 100"
    return [key for (key,) in database.rows(sql)]


def takes_changes(database: Database) -> bool:
    """Tells whether the server is a primary that accepts changes."""
    [(is_read_only,)] = database.rows("SELECT current_setting('transaction_read_only')::boolean")
    return not is_read_only


def _ids(link: Link) -> dict[str, object]:
    return {"id": link.id, "app_id": link.app_id, "repository_id": link.repository_id}
