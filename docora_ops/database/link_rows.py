"""SQL for the rows of links: which are due, overdue or chosen; columns, reads and locks."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from sys import intern

from psycopg.rows import TupleRow

from docora_ops.database.postgres import Database
from docora_ops.links import (
    Link,
    LinkFilter,
    LinkIds,
    LinkRef,
    Payload,
    PublicPayload,
    ids_of_job,
)
from docora_ops.text import mask

# Postgres plans each statement with its parameters, so unused conditions cost nothing. Nor does the
# join, unless a column of the repository is used.
LINKS = "docora.app_repositories l LEFT JOIN docora.repositories r USING (repository_id)"

# Of a repository `r`. The circuit of a link without a repository counts as closed.
CIRCUIT_IS_OPEN = "(r.circuit_open_until > now()) IS TRUE"
CIRCUIT_IS_CLOSED = "(r.circuit_open_until > now()) IS NOT TRUE"

RESCAN_IS_DUE = """(
    l.status = 'synced' AND (l.last_scanned_at IS NULL OR l.last_scanned_at
        < now() - %(rescan_interval_ms)s::bigint * interval '1 millisecond')
)"""

# Docora's own scheduler queues the same links. `circuit_open_until` stays in the row until git
# succeeds or somebody resets the circuit. Until then, a failed link is not due, even if that
# time is past.
DUE = f"""(
    (l.status = 'pending_snapshot' OR {RESCAN_IS_DUE}
     OR l.status = 'failed' AND r.circuit_open_until IS NULL)
    AND {CIRCUIT_IS_CLOSED}
)"""

# Pending links and links that were never scanned count only if no link at all was scanned between
# `overdue_before` and now. A scan in the future, left from before a clock was set back, is ignored.
# The first condition follows from the second, and lets Postgres use an index.
OVERDUE = """(
    (l.last_scanned_at < %(overdue_before)s OR l.last_scanned_at IS NULL)
    AND greatest(coalesce(l.last_scanned_at, l.created_at), r.circuit_open_until)
        < %(overdue_before)s
    AND (l.status = 'synced' AND l.last_scanned_at IS NOT NULL
         OR l.status IN ('synced', 'pending_snapshot')
            AND NOT EXISTS (SELECT FROM docora.app_repositories
                            WHERE last_scanned_at BETWEEN %(overdue_before)s AND now()))
)"""

# No worker scans the links of held apps, so they are neither due nor overdue nor lost.
NOT_HELD = "l.app_id <> ALL (%(held)s::text[])"

MATCHES = f"""(
    (%(statuses)s::text[] IS NULL OR l.status = ANY (%(statuses)s::text[])
        OR %(or_behind_circuit)s::boolean
            AND l.status = 'pending_snapshot' AND {CIRCUIT_IS_OPEN})
    AND (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
    AND (%(exclude_app_ids)s::text[] IS NULL OR l.app_id <> ALL (%(exclude_app_ids)s::text[]))
    AND (%(repository_ids)s::text[] IS NULL AND %(repository_names)s::text[] IS NULL
         OR l.repository_id = ANY (%(repository_ids)s::text[])
         OR r.owner || '/' || r.name ILIKE ANY (%(repository_names)s::text[]))
    AND (%(errors)s::text[] IS NULL AND NOT %(no_error)s::boolean
         OR l.last_error ILIKE ANY (%(errors)s::text[])
         OR %(no_error)s::boolean AND coalesce(l.last_error, '') = '')
    AND (%(exclude_errors)s::text[] IS NULL
         OR (l.last_error ILIKE ANY (%(exclude_errors)s::text[])) IS NOT TRUE)
    AND (%(open_circuit)s::boolean IS NULL
         OR ({CIRCUIT_IS_OPEN}) = %(open_circuit)s::boolean)
    AND (%(last_scan_before)s::timestamptz IS NULL OR l.last_scanned_at IS NULL
         OR l.last_scanned_at < %(last_scan_before)s::timestamptz)
    AND (%(last_scan_after)s::timestamptz IS NULL
         OR l.last_scanned_at >= %(last_scan_after)s::timestamptz)
    AND (%(overdue_before)s::timestamptz IS NULL OR {OVERDUE})
)"""

COUNT_MATCHING = f"SELECT count(*) FROM {LINKS} WHERE {MATCHES}"

_PUBLIC = """
    l.id::text, l.app_id, a.app_name, l.repository_id, r.github_url, r.owner, r.name, a.base_url
"""
PAYLOAD = f"{_PUBLIC}, l.github_token_encrypted, a.client_auth_key_encrypted"

OF_LINK = """
FROM docora.app_repositories l JOIN docora.apps a USING (app_id)
JOIN docora.repositories r USING (repository_id)
WHERE l.app_id = %(app_id)s AND l.repository_id = %(repository_id)s
"""

STATE = f"""
    {_PUBLIC}, l.status, l.retry_count, l.last_error, r.circuit_open_until, {CIRCUIT_IS_OPEN}
"""

READ_LINK = f"SELECT {STATE} {OF_LINK}"

# A bulk operation skips the rows that are locked here; a worker waits for them.
LOCK_LINK = """
SELECT 1 FROM docora.app_repositories
WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s FOR UPDATE
"""

# While a worker runs a snapshot, it holds the session advisory lock of the job id. pg_locks shows
# the lock's 64-bit key in two halves. We do not take the lock: if we held it until our commit, a
# worker that starts the new job before the commit would drop the job.
LOCK_KEY = "hashtextextended({job_id}, 0)"
LOCKED_KEYS = """
SELECT (classid::bigint << 32) | objid::bigint AS key, pid
FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

LOCKED_JOB_IDS = f"""
WITH locked AS ({LOCKED_KEYS})
SELECT job_id FROM unnest(%(job_ids)s::text[]) AS job_id
WHERE {LOCK_KEY.format(job_id="job_id")} IN (SELECT key FROM locked)
"""

# With the limit, Postgres looks up one link after the other instead of reading the whole table.
LINKED_JOBS = """
SELECT job_id FROM unnest(%(job_ids)s::text[]) AS job_id
CROSS JOIN LATERAL (
    SELECT FROM docora.app_repositories
    WHERE app_id = split_part(job_id, '-', 1) AND repository_id = split_part(job_id, '-', 2) LIMIT 1
) l
"""

NAMES_OF_LINKS = """
SELECT a.app_name, r.owner || '/' || r.name
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[])
    WITH ORDINALITY AS link(app_id, repository_id, number)
LEFT JOIN docora.apps a USING (app_id) LEFT JOIN docora.repositories r USING (repository_id)
ORDER BY link.number
"""

REFS_OF_LINKS = """
SELECT l.id::text, link.app_id, link.repository_id
FROM unnest(%(app_ids)s::text[], %(repository_ids)s::text[])
    WITH ORDINALITY AS link(app_id, repository_id, number)
CROSS JOIN LATERAL (
    SELECT id FROM docora.app_repositories
    WHERE app_id = link.app_id AND repository_id = link.repository_id LIMIT 1
) l
ORDER BY link.number
"""

_NAMES_AT_ONCE = 5000  # links per statement
_AS_LIKE = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_", "*": "%"})


def filter_parameters(which: LinkFilter) -> dict[str, object]:
    """Returns the parameters of `MATCHES`."""
    return {
        "statuses": [status.value for status in which.statuses] or None,
        "app_ids": list(which.app_ids) or None,
        "exclude_app_ids": list(which.exclude_app_ids) or None,
        "repository_ids": list(which.repository_ids) or None,
        "repository_names": [like(text) for text in which.repository_names] or None,
        "errors": _patterns_of(which.errors),
        "exclude_errors": _patterns_of(which.exclude_errors),
        "no_error": which.no_error,
        "open_circuit": which.open_circuit,
        "or_behind_circuit": which.or_behind_circuit,
        "last_scan_before": which.last_scan_before,
        "last_scan_after": which.last_scan_after,
        "overdue_before": which.overdue_before,
    }


def like(text: str) -> str:
    """Returns the LIKE pattern for a text in which `*` matches anything."""
    return text.translate(_AS_LIKE)


def _patterns_of(texts: Iterable[str]) -> list[str] | None:
    """Returns LIKE patterns for errors that contain one of the texts; None without texts.

    A text with `*` must match the whole error, or the whole reason that the error of a delivery
    gives.
    """
    patterns: list[str] = []
    for text in texts:
        pattern = like(text)
        if "*" in text:
            ours = (f"{pattern} on {event}_%" for event in ("created", "updated", "deleted"))
            patterns += [pattern, f"Notification failed for %: {pattern}", *ours]
        else:
            patterns.append(f"%{pattern}%")
    return patterns or None


def read_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """Returns the link without locking it; None if it does not exist."""
    for row in database.rows(READ_LINK, {"app_id": app_id, "repository_id": repository_id}):
        return as_link(row)
    return None


def as_link(row: TupleRow) -> Link:
    """Makes a link from a row that has the columns of `STATE`."""
    ref, payload = LinkRef(row[0], row[1], row[3]), PublicPayload(*row[1:8])
    status, retry_count, error, *circuit = row[8:]
    return Link(ref, payload, status, retry_count, error and mask(error), *circuit)


def lock_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """Locks the link's row and returns the link; None if it is gone. Raises LinkLockedError."""
    if not database.rows(LOCK_LINK, {"app_id": app_id, "repository_id": repository_id}):
        return None
    # A statement that waits for the row would see the app and repository as before the wait.
    return read_link(database, app_id, repository_id)


def read_payload(database: Database, ref: LinkRef) -> Payload:
    """Returns the payload of a locked link's job, with secrets."""
    [row] = database.rows(f"SELECT {PAYLOAD} {OF_LINK}", asdict(ref))
    return Payload(*row[1:])


def locked_job_ids(database: Database, job_ids: Sequence[str]) -> set[str]:
    """Returns the given job ids whose session advisory lock a worker holds."""
    return {job_id for (job_id,) in database.rows(LOCKED_JOB_IDS, {"job_ids": list(job_ids)})}


def linked_jobs(database: Database, job_ids: Iterable[str]) -> set[str]:
    """Returns the given job ids that have a link."""
    valid = [job_id for job_id in job_ids if ids_of_job(job_id)]
    rows = database.rows(LINKED_JOBS, {"job_ids": valid}) if valid else ()
    return {job_id for (job_id,) in rows}


def read_refs(database: Database, links: Sequence[LinkIds]) -> list[LinkRef]:
    """Returns the links with their row ids, in order. Omits links that are gone."""
    return [LinkRef(*row) for row in database.rows(REFS_OF_LINKS, pairs(links))]


def names_of(database: Database, links: Sequence[LinkIds]) -> list[tuple[str | None, str | None]]:
    """Returns app name and `owner/name` of each link, in order; None for names that are gone."""
    # Interned, because a million links may share the same few names.
    return [
        (app and intern(app), repository and intern(repository))
        for start in range(0, len(links), _NAMES_AT_ONCE)
        for app, repository in database.rows(
            NAMES_OF_LINKS, pairs(links[start : start + _NAMES_AT_ONCE])
        )
    ]


def pairs(links: Sequence[LinkIds]) -> dict[str, list[str]]:
    """Returns `app_ids` and `repository_ids` of these links, in order, as SQL parameters."""
    return {
        "app_ids": [link.app_id for link in links],
        "repository_ids": [link.repository_id for link in links],
    }
