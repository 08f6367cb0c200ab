"""Changes the status of a link while its snapshot job runs, and when the job fails."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from docora_ops.database.link_rows import (
    LOCK_LINK,
    READ_LINK,
    READ_PAYLOAD,
    link_of_row,
    lock_link,
)
from docora_ops.database.postgres import Database
from docora_ops.database.session import Session
from docora_ops.links import Link, LinkRef, LinkStatus, Payload

_KEY = "hashtextextended(%(job_id)s, 0)"

# Answers with a row if the lock was free.
BEGIN_SCAN = f"""
WITH lock AS MATERIALIZED (SELECT pg_try_advisory_lock({_KEY}) AS is_taken)
UPDATE docora.app_repositories SET status = 'scanning' FROM lock
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s AND lock.is_taken
RETURNING 1
"""

_HOLDS_LINK = f"""EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid = %(session_id)s
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) | objid::bigint = {_KEY}
)"""

# A proxy that pools transactions may run this in another session than the one with the lock.
_KEEPS_LINK = f"pg_backend_pid() = %(session_id)s AND {_HOLDS_LINK}"

MAY_DELIVER = f"SELECT {_KEEPS_LINK}, EXISTS (SELECT FROM docora.apps WHERE app_id = %(app_id)s)"

END_SCAN = f"""
WITH ended AS (
    UPDATE docora.app_repositories
    SET status = 'synced', last_scanned_at = now(), retry_count = 0, last_error = NULL
    WHERE id = %(id)s
    RETURNING 1
)
SELECT {_KEEPS_LINK}, EXISTS (SELECT FROM ended)
"""

# True if the session of the job holds the lock, or if no session does: this transaction takes it.
OWNS_LINK = f"SELECT {_HOLDS_LINK} OR pg_try_advisory_xact_lock({_KEY})"

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
WHERE id = %(id)s AND status = 'scanning'
"""

SCANNING_LINKS = """
SELECT id::text, app_id, repository_id FROM docora.app_repositories
WHERE status = 'scanning' ORDER BY id
"""


@dataclass(frozen=True)
class Failure:
    """A failure of a link's job. The link becomes `failed` without tries or at `max_attempts`."""

    app_id: str
    repository_id: str
    error: str
    tries_left: int
    max_attempts: int


class Refusal(StrEnum):
    """Why a job does not begin, or may not go on."""

    GONE = "gone"
    BUSY = "busy"
    """Another job is scanning the link."""
    HELD = "held"
    """A session holds the link's lock, yet the link is not `scanning`: a job begins or ends."""
    LOST = "lost"
    """The session of the job is not the one it was, or does not hold the link's lock any more."""


@dataclass(frozen=True)
class Ending:
    """A link's status and failures after its job has failed."""

    status: str
    retry_count: int

    @property
    def is_final(self) -> bool:
        """True if the job must not be tried again."""
        return self.status == LinkStatus.FAILED


def begin_scan(session: Session, app_id: str, repository_id: str) -> tuple[Link, Payload] | Refusal:
    """Takes the link's lock until the session is closed, and sets the link to `scanning`.

    Waits for a transaction that is changing the link: a job can start before the commit of the
    retry that queued it. Returns the link as it was before and what its job needs, or the reason
    to do nothing.
    """
    ids = {"app_id": app_id, "repository_id": repository_id}
    # A statement that waits for the row reads the rest, its app and repository, as before the wait.
    _, rows, payloads, taken = session.together(
        (LOCK_LINK, ids),
        (READ_LINK, ids),
        (READ_PAYLOAD, ids),
        (BEGIN_SCAN, ids | {"job_id": f"{app_id}-{repository_id}"}),
    )
    link = link_of_row(rows[0] if rows else None)
    if link is None:
        return Refusal.GONE
    if not taken:
        return _held(link)
    payload = Payload(*payloads[0][1:])
    return replace(link, payload=payload), payload


def may_deliver(session: Session, ref: LinkRef) -> Refusal | None:
    """Returns the reason why nothing may be sent to the app, if there is one."""
    return _refusal(session, ref, MAY_DELIVER)


def end_scan(session: Session, ref: LinkRef) -> Refusal | None:
    """Sets the link to `synced`, or returns the reason to roll the transaction back."""
    return _refusal(session, ref, END_SCAN)


def _refusal(session: Session, ref: LinkRef, sql: str) -> Refusal | None:
    values = {"id": ref.id, "app_id": ref.app_id, "job_id": ref.job_id, "session_id": session.id}
    [(is_kept, exists)] = session.rows(sql, values)
    if not is_kept:
        return Refusal.LOST
    return None if exists else Refusal.GONE


def fail_scan(database: Database, failure: Failure, session_id: int) -> Ending | Refusal:
    """Counts a failure of the job whose session is, or was, `session_id`.

    Changes nothing if another session holds the link's lock.
    """
    with database.transaction():
        link = lock_link(database, failure.app_id, failure.repository_id)
        if link is None:
            return Refusal.GONE
        values = {"job_id": link.ref.job_id, "session_id": session_id}
        if database.row(OWNS_LINK, values) != (True,):
            return _held(link)
        return _count(database, link, failure)


def fail_killed_scan(database: Database, failure: Failure) -> Ending | Refusal:
    """Counts a failure of a job whose process was killed, unless the job did so before.

    Waits until Postgres has ended the session of the job. Raises LinkLockedError if another job
    holds the link's lock.
    """
    with database.transaction():
        database.execute(AWAIT_LINK, {"job_id": f"{failure.app_id}-{failure.repository_id}"})
        link = lock_link(database, failure.app_id, failure.repository_id)
        if link is None:
            return Refusal.GONE
        is_uncounted = link.status == LinkStatus.SCANNING or (
            link.status == LinkStatus.PENDING_SNAPSHOT and failure.tries_left <= 0
        )
        if is_uncounted:
            return _count(database, link, failure)
        return Ending(link.status, link.retry_count)


def release_cut_off_scan(database: Database, app_id: str, repository_id: str) -> None:
    """Makes the link of a job that was cut off pending, without counting a failure.

    Waits until the session of the job has ended. Raises LinkLockedError if another job holds the
    link's lock.
    """
    with database.transaction():
        database.execute(AWAIT_LINK, {"job_id": f"{app_id}-{repository_id}"})
        link = lock_link(database, app_id, repository_id)
        if link is not None:
            database.execute(RELEASE_SCAN, {"id": link.ref.id})


def _count(database: Database, link: Link, failure: Failure) -> Ending:
    [row] = database.rows(FAIL_SCAN, asdict(failure) | {"id": link.ref.id})
    return Ending(*row)


def scanning_links(database: Database) -> list[LinkRef]:
    """Returns the links with the status `scanning`."""
    return [LinkRef(*row) for row in database.rows(SCANNING_LINKS)]


def _held(link: Link) -> Refusal:
    """The row is locked, so the status cannot change meanwhile."""
    return Refusal.BUSY if link.status == LinkStatus.SCANNING else Refusal.HELD
