"""Checking the Postgres server: its version, Docora's tables, and our role's privileges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docora_ops.database.postgres import Database
from docora_ops.status import Standby

SERVER = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int,
    current_setting('transaction_read_only')::bool
"""

# A standby may show an old state for as long as it is cut off from its primary.
STANDBY = """
SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint,
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::bigint
WHERE pg_is_in_recovery()
"""

CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"

# information_schema would hide columns that our role may not use.
_COLUMNS = """
    SELECT wanted.name AS table_name, a.attrelid, a.attnum, a.attname::text AS column_name
    FROM unnest(%(tables)s::text[]) AS wanted(name)
    JOIN pg_attribute a ON a.attrelid = to_regclass(quote_ident(wanted.name))
    WHERE a.attnum > 0 AND NOT a.attisdropped
"""

COLUMNS = f"SELECT table_name, column_name FROM ({_COLUMNS}) AS columns"

PRIVILEGES = f"""
WITH columns AS ({_COLUMNS})
SELECT privilege, table_name, column_name
FROM columns, unnest('{{SELECT,INSERT,UPDATE,REFERENCES}}'::text[]) AS privilege
WHERE has_column_privilege(attrelid, attnum, privilege)
UNION ALL
SELECT privilege, table_name, NULL
FROM (SELECT DISTINCT table_name, attrelid FROM columns) AS tables,
    unnest('{{DELETE,TRUNCATE,TRIGGER}}'::text[]) AS privilege
WHERE has_table_privilege(attrelid, privilege)
"""

ROLE = """
SELECT quote_ident(rolname), array_remove(ARRAY[
        CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
        CASE WHEN rolcreatedb THEN 'CREATEDB' END,
        CASE WHEN rolreplication THEN 'REPLICATION' END,
        CASE WHEN rolbypassrls THEN 'BYPASSRLS' END
    ], NULL),
    rolsuper,
    ARRAY(
        SELECT wanted.name FROM unnest(%(tables)s::text[]) AS wanted(name)
        JOIN pg_class c ON c.oid = to_regclass(quote_ident(wanted.name))
        WHERE pg_has_role(c.relowner, 'USAGE')
    ),
    EXISTS (
        SELECT FROM pg_roles AS other WHERE other.rolcanlogin AND NOT other.rolsuper
            AND has_any_column_privilege(other.oid, to_regclass('app_repositories'), 'UPDATE')
    )
FROM pg_roles WHERE rolname = current_user
"""


@dataclass(frozen=True)
class PostgresServer:
    """The version and the state of the server."""

    version: str
    version_number: int  # 140005 for 14.5
    is_read_only: bool
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
    attributes: tuple[str, ...]  # `CREATEROLE` and the like
    is_superuser: bool
    owned_tables: tuple[str, ...]
    has_narrower: bool  # a role that may log in, is no superuser, and may change links exists
    privileges: frozenset[Privilege]


def read_server(database: Database) -> PostgresServer:
    """Reads the version and the state of the server."""
    [(version, number, is_read_only)] = database.rows(SERVER)
    return PostgresServer(version, number, is_read_only, read_standby(database))


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
    """Returns table and column for all columns of these tables on the search path."""
    return frozenset(database.rows(COLUMNS, {"tables": list(tables)}))


def read_role(database: Database, tables: Sequence[str]) -> Role:
    """Reads the role of the connection and its privileges on these tables."""
    parameters = {"tables": list(tables)}
    [(name, attributes, is_superuser, owned, has_narrower)] = database.rows(ROLE, parameters)
    privileges = frozenset(Privilege(*found) for found in database.rows(PRIVILEGES, parameters))
    return Role(name, tuple(attributes), is_superuser, tuple(owned), has_narrower, privileges)
