"""SQL of the snapshot job: the status of its link, delivery records, stored commit, circuit.

Each function is one short transaction, so that nothing depends on the session.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from psycopg.rows import TupleRow

from docora_ops.database.connection import Database
from docora_ops.database.links import COLUMNS, KILLED
from docora_ops.links import Link, LinkStatus

LONGEST_PATH = 1024  # characters of a path that the table of delivery records can hold
LONGEST_INDEXED = 2600  # bytes of a path that an index can hold, together with two ids

# Commits without waiting for the disk: if Postgres crashes and loses the commit, the scan or the
# delivery is repeated.
_NO_WAIT = "(SELECT set_config('synchronous_commit', 'off', true)) AS no_wait"
_OF_LINK = "l.app_id = %(app_id)s AND l.repository_id = %(repository_id)s"


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
    values = {"app_id": app_id, "repository_id": repository_id, "limit": limit, "error": KILLED}
    # Locks the row before it looks at the status: a change of ours may not be committed yet.
    lock = f"SELECT l.status FROM app_repositories l, {_NO_WAIT} WHERE {_OF_LINK} FOR UPDATE OF l"
    begin = f"""
        UPDATE app_repositories l SET retry_count = l.retry_count + %(killed)s,
            last_error = CASE %(killed)s WHEN 1 THEN %(error)s ELSE l.last_error END,
            status = CASE WHEN %(killed)s = 1 AND l.retry_count + 1 >= %(limit)s
                THEN 'failed' ELSE 'scanning' END
        FROM apps a, repositories r
        WHERE {_OF_LINK} AND a.app_id = l.app_id AND r.repository_id = l.repository_id
        RETURNING {COLUMNS}, r.consecutive_failures <> 0 OR r.circuit_open_until IS NOT NULL
    """
    with database.transaction():
        locked = database.rows(lock, values)
        if not locked:
            return None
        is_killed = counts_killed and locked[0][0] == LinkStatus.SCANNING
        [(*row, has_failures)] = database.rows(begin, values | {"killed": int(is_killed)})
    return Link(*row), has_failures


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


def read_deliveries(database: Database, link: Link) -> Iterator[TupleRow]:
    """Streams path and SHA-256 of each file that the app has, sorted by the bytes of the path."""
    sql = f"""
        SELECT file_path, file_sha FROM app_delivered_files l WHERE {_OF_LINK}
        ORDER BY file_path COLLATE "C"
    """
    return database.stream(sql, _ids(link))


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
    sql = """
        UPDATE app_repositories l SET status = 'synced', last_scanned_at = now(), retry_count = 0,
            last_error = NULL
        WHERE l.id = %(id)s::uuid
    """
    with database.transaction():
        if not database.execute(sql, _ids(link)):
            return False
        if commit is not None:
            _store_snapshot(database, link.repository_id, *commit, files)
    return True


def _store_snapshot(
    database: Database,
    repository_id: str,
    commit_sha: str,
    branch: str,
    files: Sequence[tuple[str, str, int]],
) -> None:
    values: dict[str, object] = {"repository_id": repository_id, "commit_sha": commit_sha}
    values["branch"] = branch
    # A second job of the repository waits here for the first one. The next statement then sees the
    # files that the first one has stored.
    upsert = """
        INSERT INTO repository_snapshots (id, repository_id, commit_sha, branch, scanned_at)
        VALUES (gen_random_uuid(), %(repository_id)s, %(commit_sha)s, %(branch)s, now())
        ON CONFLICT (repository_id) DO UPDATE SET scanned_at = excluded.scanned_at
        RETURNING id
    """
    [(id_,)] = database.rows(upsert, values)
    is_stored = """
        SELECT commit_sha = %(commit_sha)s AND branch = %(branch)s
            AND (SELECT count(*) FROM snapshot_files WHERE snapshot_id = %(id)s) = %(count)s
        FROM repository_snapshots WHERE id = %(id)s
    """
    values |= {"id": id_, "count": len(files)}
    [(is_unchanged,)] = database.rows(is_stored, values)
    if is_unchanged:
        return
    database.execute(
        "UPDATE repository_snapshots SET commit_sha = %(commit_sha)s, branch = %(branch)s"
        " WHERE id = %(id)s",
        values,
    )
    database.execute("DELETE FROM snapshot_files WHERE snapshot_id = %(id)s", values)
    database.copy(
        "COPY snapshot_files (id, snapshot_id, path, sha, size) FROM STDIN",
        ((uuid4(), id_, path, sha, size) for path, sha, size in files),
    )


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
