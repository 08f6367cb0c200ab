"""SQL for `status`, `doctor` and `metrics`: counts over all links."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from docora_ops.database.connection import Database
from docora_ops.database.links import OVERDUE
from docora_ops.error_groups import LONGEST
from docora_ops.links import App

_MOST_ERRORS = 2000  # different errors that are grouped


@dataclass(frozen=True)
class LinkCounts:
    """Counts over all links, read in one scan of the table.

    by_status: links by status.
    behind_circuit: failed links whose repository has an open circuit.
    open_circuits: repositories whose circuit is open.
    oldest_scan_at: of synced links. newest_scan_at: of all links. None if there is none.
    read_at: the time by the clock of Postgres.
    """

    by_status: dict[str, int]
    behind_circuit: int
    open_circuits: int
    overdue: int
    oldest_scan_at: datetime | None
    newest_scan_at: datetime | None
    read_at: datetime

    @property
    def total(self) -> int:
        """Counts the links."""
        return sum(self.by_status.values())

    def of(self, status: str) -> int:
        """Counts the links with a status."""
        return self.by_status.get(status, 0)


def count_links(database: Database, overdue_after: int) -> LinkCounts:
    """Counts all links. `overdue_after`: seconds without a good scan after which one is overdue."""
    overdue = OVERDUE.replace(
        "%(overdue_before)s", "(now() - make_interval(secs => %(overdue_after)s))"
    )
    sql = f"""
        SELECT l.status, count(*),
            count(*) FILTER (WHERE l.status = 'failed' AND r.circuit_open_until > now()),
            count(*) FILTER (WHERE {overdue}),
            min(l.last_scanned_at) FILTER (WHERE l.status = 'synced'),
            max(l.last_scanned_at), now(),
            (SELECT count(*) FROM repositories WHERE circuit_open_until > now())
        FROM app_repositories l JOIN repositories r USING (repository_id)
        GROUP BY l.status ORDER BY l.status
    """
    rows = database.rows(sql, {"overdue_after": overdue_after})
    if not rows:
        [(now,)] = database.rows("SELECT now()")
        return LinkCounts({}, 0, 0, 0, None, None, now)
    return LinkCounts(
        by_status={status: links for status, links, *_ in rows},
        behind_circuit=sum(row[2] for row in rows),
        open_circuits=rows[0][7],
        overdue=sum(row[3] for row in rows),
        oldest_scan_at=min(filter(None, (row[4] for row in rows)), default=None),
        newest_scan_at=max(filter(None, (row[5] for row in rows)), default=None),
        read_at=rows[0][6],
    )


def failed_by_app(database: Database, limit: int | None = None) -> list[tuple[App, int]]:
    """Returns the apps with the most failed links, and the number of these links."""
    sql = """
        SELECT a.app_id, a.app_name, a.base_url, a.email, f.links FROM (
            SELECT app_id, count(*) AS links FROM app_repositories WHERE status = 'failed'
            GROUP BY app_id ORDER BY links DESC, app_id LIMIT %(limit)s
        ) f JOIN apps a USING (app_id) ORDER BY f.links DESC, a.app_name
    """
    rows = database.rows(sql, {"limit": limit})
    return [(App(*app), int(links)) for *app, links in rows]


def failed_by_error(database: Database) -> Sequence[tuple[str, str, str, int]]:
    """Returns app id, app name, error and number of links, for the most frequent errors.

    The input of `group_errors`. Equal errors of several apps come once, without an app.
    """
    sql = """
        SELECT '', '', error, links FROM (
            SELECT left(last_error, %(longest)s) AS error, count(*) AS links FROM app_repositories
            WHERE status = 'failed' GROUP BY error ORDER BY links DESC LIMIT %(most)s
        ) errors
    """
    rows = database.rows(sql, {"longest": LONGEST + 1, "most": _MOST_ERRORS})
    return [(app_id, name, error, int(links)) for app_id, name, error, links in rows]


@dataclass(frozen=True)
class ServerFacts:
    """What `doctor` asks Postgres itself.

    version: such as 160004. missing_tables: tables of Docora that are not there.
    denied: privileges on tables that our role lacks, such as `UPDATE on app_repositories`.
    now: the time by its clock.
    """

    version: int
    missing_tables: Sequence[str]
    denied: Sequence[str]
    is_read_only: bool
    now: datetime


_NEEDED = {
    "apps": "SELECT",
    "repositories": "SELECT",
    "app_repositories": "SELECT, UPDATE",
    "app_delivered_files": "SELECT, DELETE",
    "repository_snapshots": "SELECT",
    "snapshot_files": "SELECT",
}


def read_server_facts(database: Database) -> ServerFacts:
    """Asks Postgres about itself and about the privileges of our role."""
    sql = """
        SELECT name, privilege, to_regclass(name) IS NULL,
            to_regclass(name) IS NOT NULL AND NOT (
                has_table_privilege(to_regclass(name)::oid, privilege)
                OR has_any_column_privilege(to_regclass(name)::oid,
                    CASE privilege WHEN 'DELETE' THEN 'SELECT' ELSE privilege END)
                    AND privilege <> 'DELETE'),
            current_setting('server_version_num')::int,
            pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean, now()
        FROM unnest(%(names)s::text[], %(privileges)s::text[]) AS needed(name, privilege)
    """
    needed = [(table, word) for table, words in _NEEDED.items() for word in words.split(", ")]
    parameters = {"names": [name for name, _ in needed], "privileges": [word for _, word in needed]}
    rows = database.rows(sql, parameters)
    return ServerFacts(
        version=rows[0][4],
        missing_tables=sorted({name for name, _, is_missing, *_ in rows if is_missing}),
        denied=[f"{word} on {name}" for name, word, _, is_denied, *_ in rows if is_denied],
        is_read_only=rows[0][5],
        now=rows[0][6],
    )


def sample_keys(database: Database, limit: int) -> list[str]:
    """Returns up to `limit` encrypted auth keys of apps."""
    sql = "SELECT client_auth_key_encrypted FROM apps ORDER BY created_at DESC LIMIT %(limit)s"
    return [key for (key,) in database.rows(sql, {"limit": limit})]
