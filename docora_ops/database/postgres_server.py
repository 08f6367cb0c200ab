"""Checking the Postgres server: its version, Docora's tables, and our role's privileges."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from docora_ops.database.postgres import Database
from docora_ops.overview import Standby

SERVER = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int
"""

# A standby may show an old state for as long as it is cut off from its primary.
STANDBY = """
SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint,
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::bigint
WHERE pg_is_in_recovery()
"""

CLOCK = "SELECT extract(epoch FROM clock_timestamp())"

# information_schema would hide columns that our role may not use.
_TABLES = """tables AS (
    SELECT c.oid AS table_id, relname::text AS table_name, relowner
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = %(schema)s AND relname = ANY (%(tables)s::text[])
        AND has_schema_privilege(n.oid, 'USAGE')
), columns AS (
    SELECT table_id, table_name, attnum, attname::text AS column_name
    FROM tables JOIN pg_attribute ON attrelid = table_id WHERE attnum > 0 AND NOT attisdropped
)"""

COLUMNS = f"WITH {_TABLES} SELECT table_name, column_name FROM columns"

PRIVILEGES = f"""
WITH {_TABLES}
SELECT privilege, table_name, column_name
FROM columns, unnest('{{SELECT,INSERT,UPDATE,REFERENCES}}'::text[]) AS privilege
WHERE has_column_privilege(table_id, attnum, privilege)
UNION ALL
SELECT privilege, table_name, NULL
FROM tables, unnest('{{DELETE,TRUNCATE,TRIGGER}}'::text[]) AS privilege
WHERE has_table_privilege(table_id, privilege)
"""

# A function there, of a schema that stands on the path of another client, could run as our role.
CREATORS = """
SELECT quote_ident(nspname), CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END
FROM pg_namespace CROSS JOIN aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
LEFT JOIN pg_roles r ON r.oid = grantee
WHERE nspname = %(schema)s AND privilege_type = 'CREATE' AND (
    grantee = 0
    OR NOT rolsuper AND rolname NOT IN (current_user, 'pg_database_owner')
        AND NOT pg_has_role(grantee, nspowner, 'MEMBER')
        AND NOT EXISTS (
            SELECT FROM pg_class WHERE relnamespace = pg_namespace.oid
                AND relname = ANY (%(tables)s::text[]) AND pg_has_role(grantee, relowner, 'MEMBER')
        )
)
ORDER BY 2
"""

ROLE = """
SELECT quote_ident(rolname), quote_ident(%(schema)s), rolsuper
FROM pg_roles WHERE rolname = current_user
"""


@dataclass(frozen=True)
class PostgresServer:
    """The version and the state of the server."""

    version: str
    version_number: int  # 140005 for 14.5
    standby: Standby | None = None  # None on a primary


@dataclass(frozen=True, order=True)
class Privilege:
    """One privilege on a column, or on a whole table."""

    name: str
    table: str
    column: str | None


@dataclass(frozen=True)
class Role:
    """The role of the current connection."""

    name: str  # quoted if SQL needs it
    schema: str  # of Docora's tables; likewise
    is_superuser: bool
    privileges: frozenset[Privilege]


def read_server(database: Database) -> PostgresServer:
    """Reads the version and the state of the server."""
    [(version, number)] = database.rows(SERVER)
    return PostgresServer(version, number, read_standby(database))


def read_standby(database: Database) -> Standby | None:
    """Reads how far a standby lags; returns None on a primary."""
    row = database.row(STANDBY)
    if row is None:
        return None
    # Negative where the clocks differ, or after a restart that has read archived changes.
    return Standby(*(None if number is None else max(0, number) for number in row))


def read_clock(database: Database) -> float:
    """Returns the time of the server's clock, in seconds since 1970."""
    [(seconds,)] = database.rows(CLOCK)
    return float(seconds)


def read_columns(database: Database, tables: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Returns table and column for all columns of these tables that our role may name."""
    with database.snapshot():
        return frozenset(database.rows(COLUMNS, _parameters(database, tables)))


def read_creators(database: Database, tables: Sequence[str]) -> list[tuple[str, str]]:
    """Returns each role that may create objects beside these tables, with their schema.

    Leaves out superusers, our own role, and the owners of the schema and of the tables.
    """
    with database.snapshot():
        return list(database.rows(CREATORS, _parameters(database, tables)))


def read_role(database: Database, tables: Sequence[str]) -> Role:
    """Reads the role of the connection and its privileges on these tables."""
    with database.snapshot():
        parameters = _parameters(database, tables)
        [(name, schema, is_superuser)] = database.rows(ROLE, parameters)
        privileges = frozenset(Privilege(*found) for found in database.rows(PRIVILEGES, parameters))
    return Role(name, schema, is_superuser, privileges)


def _parameters(database: Database, tables: Sequence[str]) -> dict[str, object]:
    """Returns the parameters of all statements here, within a transaction."""
    return {"tables": list(tables), "schema": database.schema}


# Privileges that commands and workers need, as the help topic `privileges` grants them


@dataclass(frozen=True)
class Need:
    """A privilege on some columns of a table or, without any, on the whole of it."""

    privilege: str
    table: str
    columns: tuple[str, ...]
    only_for: str = ""  # the few commands or options that need it; empty if many do

    @property
    def privileges(self) -> list[Privilege]:
        """The privilege on each column, or on the whole table."""
        return [Privilege(self.privilege, self.table, column) for column in self.columns or (None,)]

    def __str__(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"{self.privilege} on {self.table}{columns}"


def _need(privilege: str, table: str, columns: str = "", only_for: str = "") -> Need:
    return Need(privilege, table, tuple(columns.split()), only_for)


_DELIVERY = "app_id repository_id file_path file_sha delivered_at"
_SNAPSHOT = "id repository_id commit_sha branch scanned_at"
_SNAPSHOT_FILE = "id snapshot_id path sha size created_at"

_READING_NEEDS = (
    _need("SELECT", "apps", "app_id app_name base_url"),
    _need("SELECT", "repositories", "repository_id github_url owner name circuit_open_until"),
    _need(
        "SELECT",
        "app_repositories",
        "id app_id repository_id status retry_count last_error created_at",
    ),
    _need("SELECT", "app_repositories", "last_scanned_at", "schedule, links, apps and show"),
    _need("SELECT", "app_delivered_files", "app_id repository_id", "resync and show"),
    _need("SELECT", "repositories", "consecutive_failures", "--reset-circuit, show and workers"),
    _need("SELECT", "app_delivered_files", "delivered_at", "show"),
    _need("SELECT", "repository_snapshots", _SNAPSHOT, "show"),
    _need("SELECT", "snapshot_files", "snapshot_id", "show"),
)

NEEDS = (
    *_READING_NEEDS,
    _need("SELECT", "apps", "client_auth_key_encrypted"),
    _need("SELECT", "app_repositories", "github_token_encrypted"),
    _need("UPDATE", "app_repositories", "status retry_count last_error"),
    _need(
        "UPDATE",
        "repositories",
        "consecutive_failures circuit_open_until updated_at",
        "--reset-circuit and repair",
    ),
    _need("DELETE", "app_delivered_files", "", "resync"),
    _need("UPDATE", "app_delivered_files", "file_sha", "resync --update"),
)
"""Needed by every role that runs docora-ops; for monitoring, the reading needs are enough."""

WORKER_NEEDS = (
    _need("UPDATE", "app_repositories", "last_scanned_at", "workers"),
    *(
        _need(privilege, table, columns, "workers")
        for table, columns in (
            ("app_delivered_files", _DELIVERY),
            ("repository_snapshots", _SNAPSHOT),
        )
        for privilege in ("SELECT", "INSERT", "UPDATE")
    ),
    _need("SELECT", "snapshot_files", _SNAPSHOT_FILE, "workers"),
    _need("INSERT", "snapshot_files", _SNAPSHOT_FILE, "workers"),
    _need("DELETE", "snapshot_files", "", "workers"),
)
"""Needed in addition by the role of the workers."""

TABLES = tuple(dict.fromkeys(need.table for need in NEEDS + WORKER_NEEDS))


def missing_columns(existing: Collection[tuple[str, str]]) -> list[str]:
    """Returns `table` or `table.column` of all that is needed and does not exist."""
    tables = {table for table, _ in existing}
    missing = [
        f"{need.table}.{column}" if need.table in tables else need.table
        for need in NEEDS + WORKER_NEEDS
        for column in need.columns
        if (need.table, column) not in existing
    ]
    return list(dict.fromkeys(missing))


def missing_needs(role: Role, *, read_only: bool) -> list[Need]:
    """Returns the needs that the role lacks, with the missing columns only.

    `read_only`: the role is for monitoring, whatever else it may do.
    """
    lacking = []
    known = set(role.privileges)
    for need in _READING_NEEDS if read_only else _needs_of(role):
        missing = [each for each in need.privileges if each not in known]
        known.update(missing)
        if missing:
            lacking.append(replace(need, columns=_columns(missing)))
    return lacking


def _needs_of(role: Role) -> tuple[Need, ...]:
    """Returns what the role needs for commands or, if it looks like that of workers, for both."""
    beyond = role.privileges - {each for need in NEEDS for each in need.privileges}
    is_for_workers = any(
        need.privilege != "SELECT" and not beyond.isdisjoint(need.privileges)
        for need in WORKER_NEEDS
    )
    return NEEDS + WORKER_NEEDS if is_for_workers else NEEDS


def grant_statements(needs: Iterable[Need], role: Role) -> str:
    """Returns the SQL that grants these needs to the role."""
    by_table: dict[str, list[str]] = defaultdict(list)
    for need in needs:
        columns = f" ({', '.join(need.columns)})" if need.columns else ""
        by_table[need.table].append(need.privilege + columns)
    return " ".join(
        f"GRANT {', '.join(privileges)} ON {role.schema}.{table} TO {role.name};"
        for table, privileges in by_table.items()
    )


def _columns(privileges: Iterable[Privilege]) -> tuple[str, ...]:
    return tuple(each.column for each in privileges if each.column)
