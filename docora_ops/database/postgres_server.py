"""Checking the Postgres server: version, pooling, Docora's tables, and our role's privileges."""

import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace

from docora_ops.database.postgres import Database
from docora_ops.errors import PoolingError, PostgresError
from docora_ops.overview import Standby
from docora_ops.settings import Settings

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

SESSION_ID = "SELECT pg_backend_pid()"

# information_schema would hide columns that our role may not use.
PRIVILEGES = """
SELECT privilege, table_name, column_name,
    t.oid IS NOT NULL AND (column_name IS NULL OR attnum IS NOT NULL),
    CASE WHEN column_name IS NULL THEN has_table_privilege(t.oid, privilege)
        ELSE has_column_privilege(t.oid, attnum, privilege) END
FROM unnest(%(privileges)s::text[], %(tables)s::text[], %(columns)s::text[])
    AS need(privilege, table_name, column_name)
LEFT JOIN (
    SELECT c.oid, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = %(schema)s AND has_schema_privilege(n.oid, 'USAGE')
) t ON relname = table_name
LEFT JOIN pg_attribute ON attrelid = t.oid AND attname = column_name AND NOT attisdropped
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

SESSIONS_FOR_WORKERS = (
    "point the workers' DATABASE_URL at Postgres itself, or at a proxy that pools sessions "
    "(in PgBouncer: pool_mode)"
)
_TRIES = 5
"""Other clients may take the session that would show the pooling, so one try is not enough."""


@dataclass(frozen=True)
class PostgresServer:
    """The version and the state of the server."""

    version: str
    version_number: int  # 140005 for 14.5
    standby: Standby | None = None  # None on a primary


Privilege = tuple[str, str, str | None]
"""Privilege, table, and column; without a column, a privilege on the whole table."""


@dataclass(frozen=True)
class Role:
    """The role of the current connection. Its name and the schema are quoted if SQL needs it.

    existing: the needed privileges whose table and column exist, as far as the role may look.
    held: the needed privileges that the role has.
    """

    name: str
    schema: str
    is_superuser: bool
    existing: frozenset[Privilege]
    held: frozenset[Privilege]


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


def read_latency(database: Database) -> float:
    """Returns the seconds that one answer takes."""
    with database.snapshot():
        began = time.monotonic()
        database.rows(SESSION_ID)
        return time.monotonic() - began


def pools_transactions(settings: Settings) -> bool | None:
    """Tells whether a proxy pools transactions; None if two connections can't be opened at once.

    Such a proxy gives the session of the first connection to the second, or another session to the
    first. Raises PoolingError if the proxy pools statements.
    """
    hurried = settings.hurried(settings.connect_timeout)
    with closing(Database(hurried)) as first, closing(Database(hurried)) as second:
        try:
            session = first.row(SESSION_ID)
            for _ in range(_TRIES):
                with second.snapshot():
                    # With a shared session, a pool of one session would not answer the first.
                    if second.row(SESSION_ID) == session or first.row(SESSION_ID) != session:
                        return True
        except PoolingError:
            raise
        except PostgresError:
            return None
    return False


def require_session(settings: Settings) -> None:
    """Raises PoolingError if a proxy pools transactions."""
    if pools_transactions(settings):
        raise PoolingError(
            "DATABASE_URL leads to a proxy that pools transactions, and a worker needs sessions "
            "of Postgres to itself",
            hint=f"{SESSIONS_FOR_WORKERS}; all other commands work behind this proxy",
        )


def read_creators(database: Database) -> list[tuple[str, str]]:
    """Returns each role that may create objects beside Docora's tables, with their schema.

    Leaves out superusers, our own role, and the owners of the schema and of the tables.
    """
    with database.snapshot():
        parameters = {"tables": list(TABLES), "schema": database.schema}
        return list(database.rows(CREATORS, parameters))


def read_role(database: Database) -> Role:
    """Reads the role of the connection and its privileges on Docora's tables."""
    needed = [each for need in NEEDS + WORKER_NEEDS for each in need.privileges]
    privileges, tables, columns = (list(each) for each in zip(*needed, strict=True))
    with database.snapshot():
        parameters: dict[str, object] = {"schema": database.schema, "privileges": privileges}
        parameters |= {"tables": tables, "columns": columns}
        [(name, schema, is_superuser)] = database.rows(ROLE, parameters)
        found = database.rows(PRIVILEGES, parameters)
    existing = frozenset(row[:3] for row in found if row[3])
    held = frozenset(row[:3] for row in found if row[4])
    return Role(name, schema, is_superuser, existing, held)


# Privileges that commands and workers need, as the help topic `privileges` grants them


@dataclass(frozen=True)
class Need:
    """A privilege on some columns of a table or, without any, on the whole of it."""

    privilege: str
    table: str
    columns: tuple[str, ...] = ()
    only_for: str = ""  # the few commands or options that need it; empty if many do

    @property
    def privileges(self) -> list[Privilege]:
        """The privilege on each column, or on the whole table."""
        return [(self.privilege, self.table, column) for column in self.columns or (None,)]

    def __str__(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        return f"{self.privilege} on {self.table}{columns}"


_APP = ("app_id", "app_name", "base_url")
_REPOSITORY = ("repository_id", "github_url", "owner", "name", "circuit_open_until")
_STATUS = ("status", "retry_count", "last_error")
_LINK = ("id", "app_id", "repository_id", *_STATUS, "created_at")
_CIRCUIT = ("consecutive_failures", "circuit_open_until", "updated_at")
_DELIVERY = ("app_id", "repository_id", "file_path", "file_sha", "delivered_at")
_SNAPSHOT = ("id", "repository_id", "commit_sha", "branch", "scanned_at")
_SNAPSHOT_FILE = ("id", "snapshot_id", "path", "sha", "size", "created_at")

_READING_NEEDS = (
    Need("SELECT", "apps", _APP),
    Need("SELECT", "repositories", _REPOSITORY),
    Need("SELECT", "app_repositories", _LINK),
    Need("SELECT", "app_repositories", ("last_scanned_at",), "schedule, links, apps and show"),
    Need("SELECT", "app_delivered_files", ("app_id", "repository_id"), "resync and show"),
    Need("SELECT", "repositories", _CIRCUIT[:1], "--reset-circuit, show and workers"),
    Need("SELECT", "app_delivered_files", ("delivered_at",), "show"),
    Need("SELECT", "repository_snapshots", _SNAPSHOT, "show"),
    Need("SELECT", "snapshot_files", ("snapshot_id",), "show"),
)

NEEDS = (
    *_READING_NEEDS,
    Need("SELECT", "apps", ("client_auth_key_encrypted",)),
    Need("SELECT", "app_repositories", ("github_token_encrypted",)),
    Need("UPDATE", "app_repositories", _STATUS),
    Need("UPDATE", "repositories", _CIRCUIT, "--reset-circuit and repair"),
    Need("DELETE", "app_delivered_files", (), "resync"),
    Need("UPDATE", "app_delivered_files", ("file_sha",), "resync --update"),
)
"""Needed by every role that runs docora-ops; for monitoring, the reading needs are enough."""

WORKER_NEEDS = (
    Need("UPDATE", "app_repositories", ("last_scanned_at",), "workers"),
    Need("SELECT", "app_delivered_files", _DELIVERY, "workers"),
    Need("INSERT", "app_delivered_files", _DELIVERY, "workers"),
    Need("UPDATE", "app_delivered_files", _DELIVERY, "workers"),
    Need("SELECT", "repository_snapshots", _SNAPSHOT, "workers"),
    Need("INSERT", "repository_snapshots", _SNAPSHOT, "workers"),
    Need("UPDATE", "repository_snapshots", _SNAPSHOT, "workers"),
    Need("SELECT", "snapshot_files", _SNAPSHOT_FILE, "workers"),
    Need("INSERT", "snapshot_files", _SNAPSHOT_FILE, "workers"),
    Need("DELETE", "snapshot_files", (), "workers"),
)
"""Needed in addition by the role of the workers."""

TABLES = tuple(dict.fromkeys(need.table for need in NEEDS + WORKER_NEEDS))


def missing_columns(role: Role) -> list[str]:
    """Returns `table` or `table.column` of all that is needed and does not exist."""
    tables = {table for _, table, _ in role.existing}
    missing = [
        f"{table}.{column}" if table in tables else table
        for need in NEEDS + WORKER_NEEDS
        for _, table, column in set(need.privileges) - role.existing
    ]
    return sorted(set(missing))


def missing_needs(role: Role, *, read_only: bool) -> list[Need]:
    """Returns the needs that the role lacks, with the missing columns only.

    `read_only`: the role is for monitoring, whatever else it may do.
    """
    needs: tuple[Need, ...] = _READING_NEEDS if read_only else NEEDS
    beyond = role.held - {each for need in NEEDS for each in need.privileges}
    if not read_only and any(privilege != "SELECT" for privilege, *_ in beyond):
        needs += WORKER_NEEDS  # it looks like the role of the workers
    lacking = []
    known = set(role.held)
    for need in needs:
        missing = [each for each in need.privileges if each not in known]
        known.update(missing)
        if missing:
            columns = tuple(column for *_, column in missing if column)
            lacking.append(replace(need, columns=columns))
    return lacking


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
