"""SQL for the rows of links: which match a filter; locks and changes."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from docora_ops.database.connection import Database
from docora_ops.links import Deliveries, Link, LinkFilter, ids_of_job

# A delivery record with this hash matches no file, so that each file is sent as an update.
NO_SHA = "0" * 64
KILLED = "the worker was killed, or stopped before it could record a result"

# Docora's own scheduler queues the same links. `circuit_open_until` stays in the row until git
# succeeds or somebody closes the circuit. Until then, a failed link is not due.
DUE = """(
    (l.status = 'pending_snapshot'
     OR l.status = 'synced' AND (l.last_scanned_at IS NULL OR l.last_scanned_at
        < now() - %(rescan_interval_ms)s::bigint * interval '1 millisecond')
     OR l.status = 'failed' AND r.circuit_open_until IS NULL)
    AND (r.circuit_open_until > now()) IS NOT TRUE
)"""

# Pending links and links that were never scanned count only if no link at all was scanned between
# `overdue_before` and now: a resync of many links must not look like a standstill.
OVERDUE = """(
    greatest(coalesce(l.last_scanned_at, l.created_at), r.circuit_open_until) < %(overdue_before)s
    AND (l.status = 'synced' AND l.last_scanned_at IS NOT NULL
         OR l.status IN ('synced', 'pending_snapshot')
            AND NOT EXISTS (SELECT FROM app_repositories
                            WHERE last_scanned_at BETWEEN %(overdue_before)s AND now()))
)"""

# Postgres plans each statement with its parameters, so that unused conditions cost nothing.
MATCHES = f"""(
    (%(statuses)s::text[] IS NULL OR l.status = ANY (%(statuses)s::text[]))
    AND (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
    AND (%(exclude_app_ids)s::text[] IS NULL OR l.app_id <> ALL (%(exclude_app_ids)s::text[]))
    AND (%(repository_ids)s::text[] IS NULL AND %(repository_names)s::text[] IS NULL
         OR l.repository_id = ANY (%(repository_ids)s::text[])
         OR r.owner || '/' || r.name ILIKE ANY (%(repository_names)s::text[]))
    AND (%(errors)s::text[] IS NULL OR l.last_error ILIKE ANY (%(errors)s::text[]))
    AND (%(exclude_errors)s::text[] IS NULL
         OR (l.last_error ILIKE ANY (%(exclude_errors)s::text[])) IS NOT TRUE)
    AND (%(open_circuit)s::boolean IS NULL
         OR ((r.circuit_open_until > now()) IS TRUE) = %(open_circuit)s::boolean)
    AND (%(overdue_before)s::timestamptz IS NULL OR {OVERDUE})
    AND (%(rescan_interval_ms)s::bigint IS NULL OR {DUE})
)"""

LINKS = """app_repositories l JOIN apps a USING (app_id)
JOIN repositories r USING (repository_id)"""

# In the order of the fields of Link.
COLUMNS = """l.id::text, l.app_id, a.app_name, l.repository_id, r.owner || '/' || r.name,
    r.github_url, r.owner, r.name, a.base_url, l.status, l.retry_count, l.last_error,
    l.last_scanned_at, r.circuit_open_until, (r.circuit_open_until > now()) IS TRUE,
    l.github_token_encrypted, a.client_auth_key_encrypted"""


def parameters_of(which: LinkFilter) -> dict[str, Any]:
    """Returns the parameters of MATCHES for a filter."""
    values: dict[str, Any] = {
        name: (list(value) or None) if isinstance(value, tuple | list) else value
        for name, value in asdict(which).items()
    }
    for name in ("repository_names", "errors", "exclude_errors"):
        if patterns := values[name]:
            whole = name == "repository_names"
            values[name] = [like(text, whole=whole) for text in patterns]
    return values


def like(text: str, *, whole: bool = False) -> str:
    """Returns the pattern of LIKE for a text in which `*` matches anything.

    whole: also a text without `*` must match the whole value.
    """
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%") if whole or "*" in text else f"%{escaped}%"


def _array(ids: Sequence[str]) -> str:
    """Returns row ids as an array literal of Postgres: the driver's own takes longer to make."""
    return "{" + ",".join(ids) + "}"


def now(database: Database) -> datetime:
    """Returns the time by the clock of Postgres."""
    [(moment,)] = database.rows("SELECT now()")
    result: datetime = moment
    return result


def select_ids(database: Database, which: LinkFilter, limit: int | None = None) -> list[str]:
    """Returns the row ids of at most `limit` links that match, round-robin across apps."""
    sql = f"""
        SELECT l.id::text FROM {LINKS} WHERE {MATCHES}
        ORDER BY row_number() OVER (PARTITION BY l.app_id ORDER BY l.repository_id), l.app_id
        LIMIT %(limit)s
    """
    parameters = parameters_of(which) | {"limit": limit}
    return [id_ for (id_,) in database.stream(sql, parameters)]


def select_jobs(database: Database, which: LinkFilter) -> Iterator[tuple[str, str]]:
    """Yields job id and row id of the links that match, round-robin across apps.

    Leaves out links whose ids form no valid job id.
    """
    sql = f"""
        SELECT l.app_id || '-' || l.repository_id, l.id::text FROM {LINKS} WHERE {MATCHES}
        ORDER BY row_number() OVER (PARTITION BY l.app_id ORDER BY l.repository_id), l.app_id
    """
    for job_id, id_ in database.stream(sql, parameters_of(which)):
        if ids_of_job(job_id):
            yield job_id, id_


def find_links(database: Database, app: str, repository: str) -> list[Link]:
    """Returns at most two links of apps and repositories with these ids or names.

    Names are compared case-insensitively.
    """
    sql = f"""
        SELECT {COLUMNS} FROM {LINKS}
        WHERE (l.app_id = %(app)s OR lower(a.app_name) = lower(%(app)s))
            AND (l.repository_id = %(repository)s
                 OR lower(r.owner || '/' || r.name) = lower(%(repository)s)) LIMIT 2
    """
    parameters = {"app": app, "repository": repository}
    return [Link(*row) for row in database.rows(sql, parameters)]


def count(database: Database, which: LinkFilter) -> int:
    """Counts the links that match."""
    [(total,)] = database.rows(
        f"SELECT count(*) FROM {LINKS} WHERE {MATCHES}", parameters_of(which)
    )
    return int(total)


def count_by_app(database: Database, ids: Sequence[str]) -> list[tuple[str, str, int]]:
    """Returns app id, app name and number of links of each app, the largest number first."""
    sql = """
        SELECT app_id, app_name, count(*) FROM app_repositories l JOIN apps a USING (app_id)
        WHERE l.id = ANY (%(ids)s::uuid[]) GROUP BY app_id, app_name ORDER BY 3 DESC, app_name
    """
    return [
        (app_id, name, int(links))
        for app_id, name, links in database.rows(sql, {"ids": _array(ids)})
    ]


def read_link(database: Database, app_id: str, repository_id: str) -> Link | None:
    """Returns a link; None if the app is not linked to the repository."""
    sql = f"SELECT {COLUMNS} FROM {LINKS} WHERE l.app_id = %(app)s AND l.repository_id = %(repo)s"
    rows = database.rows(sql, {"app": app_id, "repo": repository_id})
    return Link(*rows[0]) if rows else None


def read_links(
    database: Database, ids: Sequence[str], which: LinkFilter, *, lock: str = ""
) -> list[Link]:
    """Returns the links with these row ids that match.

    lock: `FOR UPDATE OF l`, with or without `SKIP LOCKED`.
    """
    sql = f"SELECT {COLUMNS} FROM {LINKS} WHERE l.id = ANY (%(ids)s::uuid[]) AND {MATCHES} {lock}"
    return [Link(*row) for row in database.rows(sql, parameters_of(which) | {"ids": _array(ids)})]


def reset_links(database: Database, ids: Sequence[str]) -> None:
    """Sets links to `pending_snapshot`, without error and failures."""
    sql = """
        UPDATE app_repositories SET status = 'pending_snapshot', retry_count = 0, last_error = NULL
        WHERE id = ANY (%(ids)s::uuid[])
    """
    database.execute(sql, {"ids": _array(ids)})


def count_failures(database: Database, ids: Sequence[str], most: int) -> None:
    """Counts a failure of links whose worker was killed: `failed` at the `most`th one."""
    sql = """
        UPDATE app_repositories SET retry_count = retry_count + 1, last_error = %(error)s,
            status = CASE WHEN retry_count + 1 >= %(most)s THEN 'failed' ELSE 'pending_snapshot' END
        WHERE id = ANY (%(ids)s::uuid[])
    """
    database.execute(sql, {"ids": _array(ids), "most": most, "error": KILLED})


def clear_deliveries(database: Database, ids: Sequence[str], deliveries: Deliveries) -> int:
    """Deletes or marks the delivery records of links. Returns the number of records."""
    verb = "DELETE FROM app_delivered_files d"
    if deliveries is Deliveries.MARK:
        verb = "UPDATE app_delivered_files d SET file_sha = %(sha)s"
    using = "FROM" if deliveries is Deliveries.MARK else "USING"
    sql = f"""
        {verb} {using} app_repositories l WHERE l.id = ANY (%(ids)s::uuid[])
            AND d.app_id = l.app_id AND d.repository_id = l.repository_id
    """
    return database.execute(sql, {"ids": _array(ids), "sha": NO_SHA})


def count_deliveries(database: Database, ids: Sequence[str]) -> int:
    """Counts the delivery records of links."""
    sql = """
        SELECT count(*) FROM app_delivered_files d JOIN app_repositories l
            ON d.app_id = l.app_id AND d.repository_id = l.repository_id
        WHERE l.id = ANY (%(ids)s::uuid[])
    """
    [(total,)] = database.rows(sql, {"ids": _array(ids)})
    return int(total)


def close_circuits(database: Database, repository_ids: Collection[str]) -> int:
    """Closes circuits and sets git failures to 0. Returns the number of repositories changed.

    Skips rows that another transaction has locked: the worker that has counted a failure there.
    """
    # Sorted, so that two transactions can't deadlock. FOR UPDATE would block the worker's
    # deliveries, whose foreign keys refer to the repository.
    sql = """
        UPDATE repositories SET consecutive_failures = 0, circuit_open_until = NULL,
            updated_at = now()
        WHERE repository_id IN (
            SELECT repository_id FROM repositories WHERE repository_id = ANY (%(ids)s::text[])
                AND (consecutive_failures <> 0 OR circuit_open_until IS NOT NULL)
            ORDER BY repository_id FOR NO KEY UPDATE SKIP LOCKED
        )
    """
    return database.execute(sql, {"ids": sorted(repository_ids)})


def read_results(database: Database, ids: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    """Returns row id, status, error, app id and repository id of links, for `--wait`.

    Omits links that are gone. The error is empty if there is none.
    """
    sql = """
        SELECT id::text, status, coalesce(last_error, ''), app_id, repository_id
        FROM app_repositories WHERE id = ANY (%(ids)s::uuid[])
    """
    return [(id_, *values) for id_, *values in database.rows(sql, {"ids": _array(ids)})]


def any_linked(database: Database, job_ids: Sequence[str]) -> bool:
    """Tells whether one of these job ids belongs to a link of this database."""
    pairs = [ids for ids in map(ids_of_job, job_ids) if ids]
    sql = """
        SELECT EXISTS (
            SELECT FROM unnest(%(apps)s::text[], %(repositories)s::text[]) AS job(app, repository)
            JOIN app_repositories l ON l.app_id = app AND l.repository_id = repository
        )
    """
    parameters = {"apps": [app for app, _ in pairs], "repositories": [repo for _, repo in pairs]}
    [(is_linked,)] = database.rows(sql, parameters)
    return bool(is_linked)
