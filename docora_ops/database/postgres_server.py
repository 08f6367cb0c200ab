"""Checks the Postgres server: identity, version, pooling, tables, privileges of the role."""

import re
import time
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from docora_ops.database.postgres import Database
from docora_ops.errors import PoolingError, PostgresError
from docora_ops.settings import Settings
from docora_ops.text import duration

# A standby that is cut off from its primary shows an old state.
STANDBY = """
SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint,
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::bigint
WHERE pg_is_in_recovery()
"""
SERVER = "SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp())"

SESSION_ID = "SELECT pg_backend_pid()"

# information_schema would hide columns that our role may not use.
PRIVILEGES = """
SELECT privilege, table_name, column_name,
    t.oid IS NOT NULL AND (column_name IS NULL OR attnum IS NOT NULL),
    CASE WHEN column_name IS NULL THEN has_table_privilege(t.oid, privilege)
        ELSE has_column_privilege(t.oid, attnum, privilege) END
FROM unnest(%(privileges)s::text[], %(tables)s::text[], %(columns)s::text[])
    WITH ORDINALITY AS need(privilege, table_name, column_name, number)
LEFT JOIN (
    SELECT c.oid, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = %(schema)s AND has_schema_privilege(n.oid, 'USAGE')
) t ON relname = table_name
LEFT JOIN pg_attribute ON attrelid = t.oid AND attname = column_name AND NOT attisdropped
ORDER BY number
"""

ROLE = """
SELECT quote_ident(rolname), quote_ident(%(schema)s), rolsuper, EXISTS (
    SELECT FROM pg_namespace
    WHERE nspname = %(schema)s AND has_schema_privilege('public', oid, 'CREATE')
)
FROM pg_roles WHERE rolname = current_user
"""

SESSIONS_FOR_WORKERS = (
    "point the workers' DATABASE_URL at Postgres itself, or at a proxy that pools sessions "
    "(in PgBouncer: pool_mode)"
)
_TRIES = 20  # in one try, other clients may take the session that would reveal the pooling

Privilege = tuple[str, str, str | None]  # privilege, table, column; None: the whole table


@dataclass(frozen=True)
class Standby:
    """The lag of a Postgres standby behind its primary."""

    unreplayed_bytes: int | None  # received, not yet replayed; None if it has received nothing
    last_change_seconds: int | None  # since its last replayed change; grows if the primary is idle

    def __str__(self) -> str:
        """Describes how old the data may be."""
        age = self.last_change_seconds
        last = "no change replayed yet" if age is None else f"last change {duration(age)} ago"
        left = self.unreplayed_bytes
        return f"a standby, {last}" + (f", {left:,} bytes to replay" if left else "")


@dataclass(frozen=True)
class PostgresServer:
    """The state of the server at one moment."""

    version: str  # begins with a number
    standby: Standby | None  # None on a primary
    latency: float  # seconds that one answer took
    clock: float  # its time, in seconds since 1970


@dataclass(frozen=True)
class Role:
    """The role of the current connection. `name` and the tables' `schema` are quoted for SQL."""

    name: str
    schema: str
    is_superuser: bool
    public_may_create: bool  # whether every role may create objects in the schema
    missing_columns: list[str]  # each `table` or `table.column` that is absent or hidden
    privileges: set[Privilege]  # those of the topic `privileges` that the role has

    @property
    def may_only_read(self) -> bool:
        """Tells whether the role has all privileges for monitoring, and none to change anything."""
        is_reader = {name for name, *_ in self.privileges} == {"SELECT"} and not self.is_superuser
        return is_reader and not self.lacks(read_only=True)

    def lacks(self, *, read_only: bool) -> dict[str, list[str]]:
        """Returns the grants that the role lacks, by table.

        Compares the role with one of those in the help topic `privileges`:

        - with `docora_monitor` if `read_only`,
        - with `docora_worker` if the role may change anything that `docora_ops` may not,
        - otherwise with `docora_ops`.
        """
        needed = granted("docora_monitor" if read_only else "docora_ops")
        if not read_only and any(
            name != "SELECT" for name, *_ in self.privileges.difference(needed)
        ):
            needed = granted("docora_worker")  # the role looks like a worker's
        columns: dict[str, dict[str, list[str]]] = {}  # by table and privilege
        for name, table, column in needed:
            if (name, table, column) not in self.privileges:
                some = columns.setdefault(table, {}).setdefault(name, [])
                some += [column] if column else []
        return {
            table: [f"{name} ({', '.join(some)})" if some else name for name, some in lacks.items()]
            for table, lacks in columns.items()
        }


@cache
def granted(role: str) -> list[Privilege]:
    """Returns the table privileges that the help topic `privileges` grants to the role."""
    topic = files("docora_ops").joinpath("help", "privileges.md").read_text(encoding="utf-8")
    [block] = re.findall(rf"CREATE ROLE {role} (.*?)```", topic, re.DOTALL)
    privileges: list[Privilege] = []
    for names, table in re.findall(r"GRANT ([^;]+?)\s+ON (\w+) TO", block):
        for name, columns in re.findall(r"([A-Z]+)(?: \(([^)]+)\))?", names):
            privileges += [
                (name, table, column) for column in re.findall(r"\w+", columns) or [None]
            ]
    return privileges


def read_server(database: Database) -> PostgresServer:
    """Reads version, clock and standby state, and measures the latency of one statement.

    Call it within a transaction, so that connecting and BEGIN are not measured.
    """
    began = time.monotonic()
    [(version, clock)] = database.rows(SERVER)
    latency = time.monotonic() - began
    return PostgresServer(version, read_standby(database), latency, float(clock))


def read_standby(database: Database) -> Standby | None:
    """Reads how far a standby lags; returns None on a primary."""
    for lag in database.rows(STANDBY):
        # It can be negative if clocks differ, or after a restart that has replayed archived WAL.
        return Standby(*(None if number is None else max(0, number) for number in lag))
    return None


def pools_transactions(settings: Settings, tries: int = _TRIES) -> bool | None:
    """Tells whether a proxy pools transactions; None if two connections can't be opened at once.

    tries: how often to compare the connections' sessions. A few comparisons may miss the pooling if
        other clients are busy.

    Raises PoolingError if the proxy pools statements.
    """
    hurried = settings.hurried(settings.connect_timeout)
    with closing(Database(hurried)) as first, closing(Database(hurried)) as second:
        try:
            session = first.rows(SESSION_ID)
            for _ in range(tries):
                with second.consistent_reads():
                    # Such a proxy gives one session to both connections, or changes the session of
                    # one. If the session is shared, the first connection must not be asked: a pool
                    # with only this session would not answer.
                    if second.rows(SESSION_ID) == session or first.rows(SESSION_ID) != session:
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


def read_role(database: Database) -> Role:
    """Reads the role of the connection and its privileges on Docora's tables.

    Call it within a transaction: otherwise, a pool may run each statement in another session.
    """
    needed = dict.fromkeys(granted("docora_ops") + granted("docora_worker"))
    names, tables, columns = (list(values) for values in zip(*needed, strict=True))
    of_schema = {"schema": database.schema}
    [(name, schema, is_superuser, public_may_create)] = database.rows(ROLE, of_schema)
    wanted = {"privileges": names, "tables": tables, "columns": columns}
    privileges = database.rows(PRIVILEGES, {**of_schema, **wanted})
    existing = {table for _, table, _, exists, _ in privileges if exists}
    missing = [
        f"{table}.{column}" if table in existing else table
        for _, table, column, exists, _ in privileges
        if not exists
    ]
    privileges_of_role = {
        (privilege, table, column)
        for privilege, table, column, _, is_granted in privileges
        if is_granted
    }
    missing = list(dict.fromkeys(missing))
    return Role(name, schema, is_superuser, public_may_create, missing, privileges_of_role)
