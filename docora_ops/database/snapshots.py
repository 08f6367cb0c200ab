"""What a snapshot job reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import uuid4

from docora_ops.database.link_rows import lock_link
from docora_ops.database.postgres import Database
from docora_ops.database.session import Session
from docora_ops.links import Link, LinkRef, LinkStatus

_KEY = "hashtextextended(%(job_id)s, 0)"

TAKE_LINK = f"SELECT pg_try_advisory_lock({_KEY})"

BEGIN_SCAN = "UPDATE app_repositories SET status = 'scanning' WHERE id = %(id)s"

READ_DELIVERIES = """
SELECT file_path, file_sha FROM app_delivered_files
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s
ORDER BY file_path COLLATE "C"
"""

# By way of the apps: the primary key of the deliveries begins with them.
HAD_COMMIT = """
SELECT EXISTS (SELECT FROM repository_snapshots WHERE repository_id = %(repository_id)s)
    OR EXISTS (
        SELECT FROM apps a JOIN app_delivered_files f ON f.app_id = a.app_id
        WHERE f.repository_id = %(repository_id)s
    )
"""

APP_EXISTS = "SELECT 1 FROM apps WHERE app_id = %(app_id)s"

# A delivery that a crash of Postgres takes back is only made once more, so none of them needs to
# wait for the disk; what ends the job does, and what comes before it is on disk then too.
RELAX_COMMITS = "SET synchronous_commit TO off"
STRICT_COMMITS = "SET synchronous_commit TO DEFAULT"

RECORD_DELIVERY = """
INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha, delivered_at)
SELECT app_id, repository_id, $2, $3, now() FROM app_repositories WHERE id = $1::uuid
ON CONFLICT (app_id, repository_id, file_path)
    DO UPDATE SET file_sha = excluded.file_sha, delivered_at = excluded.delivered_at
"""

REMOVE_DELIVERY = """
WITH removed AS (
    DELETE FROM app_delivered_files WHERE app_id = $2 AND repository_id = $3 AND file_path = $4
)
SELECT FROM app_repositories WHERE id = $1::uuid
"""

# Whoever comes second counts what the first has stored.
LOCK_SNAPSHOT = """
SELECT id FROM repository_snapshots WHERE repository_id = %(repository_id)s FOR UPDATE
"""

COUNT_SNAPSHOT_FILES = """
SELECT count(f.id) FROM repository_snapshots s LEFT JOIN snapshot_files f ON f.snapshot_id = s.id
WHERE s.repository_id = %(repository_id)s AND s.commit_sha = %(commit_sha)s
GROUP BY s.id
"""

UPSERT_SNAPSHOT = """
INSERT INTO repository_snapshots (id, repository_id, commit_sha, branch, scanned_at)
VALUES (gen_random_uuid(), %(repository_id)s, %(commit_sha)s, %(branch)s, now())
ON CONFLICT (repository_id) DO UPDATE SET commit_sha = excluded.commit_sha,
    branch = excluded.branch, scanned_at = excluded.scanned_at
RETURNING id
"""

DELETE_SNAPSHOT_FILES = "DELETE FROM snapshot_files WHERE snapshot_id = %(snapshot_id)s"

COPY_SNAPSHOT_FILES = "COPY snapshot_files (id, snapshot_id, path, sha, size) FROM STDIN"

END_SCAN = """
UPDATE app_repositories
SET status = 'synced', last_scanned_at = now(), retry_count = 0, last_error = NULL
WHERE id = %(id)s
"""

_HOLDS_LINK = f"""EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid = %(session_id)s
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) | objid::bigint = {_KEY}
)"""

# Behind a proxy the lock may be with one session, and the job with another.
KEEPS_LINK = f"SELECT pg_backend_pid() = %(session_id)s AND {_HOLDS_LINK}"

# Held by the session of the job itself, or by nobody: then we take it.
OWNS_LINK = f"SELECT {_HOLDS_LINK} OR pg_try_advisory_xact_lock({_KEY})"

AWAIT_LINK = f"SELECT pg_advisory_xact_lock({_KEY})"

FAIL_SCAN = """
UPDATE app_repositories
SET retry_count = retry_count + 1, last_error = %(error)s,
    status = CASE WHEN retry_count + 1 >= %(max_attempts)s OR %(tries_left)s <= 0
        THEN 'failed' ELSE 'pending_snapshot' END
WHERE id = %(id)s
RETURNING status, retry_count
"""

CLOSE_CIRCUIT_IF_NEEDED = """
UPDATE repositories
SET consecutive_failures = 0, circuit_open_until = NULL, updated_at = now()
WHERE repository_id = %(repository_id)s
  AND (consecutive_failures <> 0 OR circuit_open_until IS NOT NULL)
"""

COUNT_GIT_FAILURE = """
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

APPS_OF_REPOSITORY = """
SELECT a.app_id, a.base_url, a.client_auth_key_encrypted, l.retry_count
FROM app_repositories l JOIN apps a USING (app_id)
WHERE l.repository_id = %(repository_id)s ORDER BY a.app_id
"""

SCANNING_LINKS = """
SELECT id::text, app_id, repository_id FROM app_repositories
WHERE status = 'scanning' AND id > %(after)s::uuid ORDER BY id LIMIT %(limit)s
"""


class Refusal(StrEnum):
    """Why a job has nothing to do."""

    GONE = "gone"
    BUSY = "busy"
    """Another job is at work on the link, and will see to it."""
    HELD = "held"
    """A session has the link's lock, but nobody is at work: its job has ended, or soon begins."""


@dataclass(frozen=True)
class Ending:
    """What a failure has made of a link."""

    status: str
    retry_count: int

    @property
    def is_final(self) -> bool:
        """Whether the job must not be tried again."""
        return self.status == LinkStatus.FAILED


@dataclass(frozen=True)
class Circuit:
    """A repository's circuit breaker after a git failure."""

    consecutive_failures: int
    open_until: datetime | None
    opened: bool
    """Whether this failure is what has opened it."""


@dataclass(frozen=True)
class Recipient:
    """An app that is told of an open circuit."""

    app_id: str
    base_url: str
    client_auth_key_encrypted: str = field(repr=False)
    retry_count: int


def begin_scan(session: Session, app_id: str, repository_id: str) -> Link | Refusal:
    """Take the link until the session is closed and mark it as being scanned.

    Waits for whoever is changing the link at this moment: a producer's reset, not yet committed
    when its job is already in the queue. Returns the link as it was before, or why not.
    """
    with session.transaction():
        link = lock_link(session, app_id, repository_id)
        if link is None:
            return Refusal.GONE
        if session.row(TAKE_LINK, {"job_id": link.ref.job_id}) != (True,):
            return _held(link)
        session.execute(BEGIN_SCAN, {"id": link.ref.id})
    return link


def keeps_link(session: Session, ref: LinkRef, session_id: int) -> bool:
    """Returns whether the session is still `session_id` and still holds the link's lock."""
    values = {"job_id": ref.job_id, "session_id": session_id}
    return session.row(KEEPS_LINK, values) == (True,)


def read_deliveries(database: Database, ref: LinkRef) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of each file that the app has received, by the bytes of the paths.

    To be read to its end before anything else is asked of this connection.
    """
    return ((path, sha) for path, sha in database.stream(READ_DELIVERIES, _ids(ref)))


def app_exists(database: Database, app_id: str) -> bool:
    """Whether the app is still there."""
    return database.row(APP_EXISTS, {"app_id": app_id}) is not None


class DeliveryRecord:
    """Records what an app has received, each file by itself and as soon as it is said.

    Each call hands its statement to Postgres and returns at once, so that the next file can be
    sent meanwhile; what became of it the next call or `settle` says. All calls raise
    PostgresError, and return False where the link is gone.
    """

    def __init__(self, session: Session, ref: LinkRef) -> None:
        self._session = session
        self._ref = ref
        self._is_open = False
        session.execute(RELAX_COMMITS)

    def record(self, path: str, sha: str) -> bool:
        """The app has the file now, with this SHA-256."""
        link_is_there = self.settle()
        self._send(RECORD_DELIVERY, (self._ref.id, path, sha))
        return link_is_there

    def remove(self, path: str) -> bool:
        """The app has not got the file any more."""
        link_is_there = self.settle()
        ref = self._ref
        self._send(REMOVE_DELIVERY, (ref.id, ref.app_id, ref.repository_id, path))
        return link_is_there

    def settle(self) -> bool:
        """Wait for the last statement."""
        if not self._is_open:
            return True
        self._is_open = False
        return self._session.receive() > 0

    def close(self) -> bool:
        """The same, at the end: what is committed from now on is on disk."""
        link_is_there = self.settle()
        self._session.execute(STRICT_COMMITS)
        return link_is_there

    def _send(self, sql: str, values: tuple[str, ...]) -> None:
        self._session.send(sql, values)
        self._is_open = True


def store_snapshot(
    database: Database,
    repository_id: str,
    commit_sha: str,
    branch: str,
    files: Callable[[], Iterable[tuple[str, str, int]]],
) -> None:
    """Make this the repository's snapshot: `files()` gives path, SHA-256 and size of each file.

    They are written only if not as many are stored with this commit already.
    """
    with database.transaction():
        values = {"repository_id": repository_id, "commit_sha": commit_sha, "branch": branch}
        database.row(LOCK_SNAPSHOT, values)
        stored = database.row(COUNT_SNAPSHOT_FILES, values)
        snapshot = database.row(UPSERT_SNAPSHOT, values)
        if snapshot is None or stored == (sum(1 for _ in files()),):
            return
        database.execute(DELETE_SNAPSHOT_FILES, {"snapshot_id": snapshot[0]})
        database.copy(
            COPY_SNAPSHOT_FILES,
            ((uuid4(), snapshot[0], path, sha, size) for path, sha, size in files()),
        )


def had_commit(database: Database, repository_id: str) -> bool:
    """Returns whether the repository has a snapshot, or an app has received a file of it."""
    return database.row(HAD_COMMIT, {"repository_id": repository_id}) == (True,)


def end_scan(database: Database, ref: LinkRef) -> None:
    """The link is in sync."""
    database.execute(END_SCAN, {"id": ref.id})


def fail_scan(
    database: Database,
    app_id: str,
    repository_id: str,
    error: str,
    *,
    tries_left: int,
    max_attempts: int,
    session_id: int,
) -> Ending | Refusal:
    """Count a failure of the job that has, or had, the link in the session `session_id`, if any.

    The link is `failed` then if it has failed too often or its job has no tries left, otherwise
    pending. Nothing changes where another session has the link.
    """
    with database.transaction():
        link = lock_link(database, app_id, repository_id)
        if link is None:
            return Refusal.GONE
        values = {"job_id": link.ref.job_id, "session_id": session_id}
        if database.row(OWNS_LINK, values) != (True,):
            return _held(link)
        return count_failure(
            database, link, error, tries_left=tries_left, max_attempts=max_attempts
        )


def fail_killed_scan(
    database: Database,
    app_id: str,
    repository_id: str,
    error: str,
    *,
    tries_left: int,
    max_attempts: int,
) -> Ending | Refusal:
    """The same for a job whose process is gone, and that may have written its verdict before.

    Waits until Postgres has noticed that its session is gone. Raises LinkLockedError if another
    job is at work on the link.
    """
    with database.transaction():
        database.execute(AWAIT_LINK, {"job_id": f"{app_id}-{repository_id}"})
        link = lock_link(database, app_id, repository_id)
        if link is None:
            return Refusal.GONE
        is_open = link.status == LinkStatus.SCANNING or (
            link.status == LinkStatus.PENDING_SNAPSHOT and tries_left <= 0
        )
        if is_open:
            return count_failure(
                database, link, error, tries_left=tries_left, max_attempts=max_attempts
            )
        return Ending(link.status, link.retry_count)


def count_failure(
    database: Database, link: Link, error: str, *, tries_left: int, max_attempts: int
) -> Ending:
    """Count a failure of a link that is locked.

    It is `failed` from `max_attempts` failures on, or when its job has no tries left; otherwise
    pending.
    """
    values = {"id": link.ref.id, "error": error, "tries_left": tries_left}
    [row] = database.rows(FAIL_SCAN, values | {"max_attempts": max_attempts})
    return Ending(*row)


def git_succeeded(database: Database, repository_id: str) -> None:
    """Close the repository's circuit and forget its failures."""
    database.execute(CLOSE_CIRCUIT_IF_NEEDED, {"repository_id": repository_id})


def git_failed(
    database: Database, repository_id: str, *, threshold: int, cooldown: float
) -> Circuit | None:
    """Count a failure; from `threshold` on each opens the circuit for `cooldown` seconds.

    Returns None where the repository is gone.
    """
    values = {"repository_id": repository_id, "threshold": threshold, "cooldown": cooldown}
    row = database.row(COUNT_GIT_FAILURE, values)
    return Circuit(*row) if row else None


def recipients(database: Database, repository_id: str) -> list[Recipient]:
    """Every app that is linked to the repository."""
    rows = database.rows(APPS_OF_REPOSITORY, {"repository_id": repository_id})
    return [Recipient(*row) for row in rows]


def scanning_links(database: Database, after: str, limit: int) -> list[LinkRef]:
    """Links that are marked as being scanned, ordered by row id, from the one after `after` on."""
    rows = database.rows(SCANNING_LINKS, {"after": after, "limit": limit})
    return [LinkRef(*row) for row in rows]


def _held(link: Link) -> Refusal:
    """By another session; the link is locked, so its status is that of this moment."""
    return Refusal.BUSY if link.status == LinkStatus.SCANNING else Refusal.HELD


def _ids(ref: LinkRef) -> dict[str, str]:
    return {"app_id": ref.app_id, "repository_id": ref.repository_id}
