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

ROLE = f"""
WITH {_TABLES}
SELECT quote_ident(rolname), quote_ident(%(schema)s), array_remove(ARRAY[
        CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
        CASE WHEN rolcreatedb THEN 'CREATEDB' END,
        CASE WHEN rolreplication THEN 'REPLICATION' END,
        CASE WHEN rolbypassrls THEN 'BYPASSRLS' END
    ], NULL),
    rolsuper,
    ARRAY(
        SELECT table_name FROM tables WHERE pg_has_role(relowner, 'USAGE')
        ORDER BY array_position(%(tables)s::text[], table_name)
    ),
    EXISTS (
        SELECT FROM pg_roles AS other, tables
        WHERE other.rolcanlogin AND NOT other.rolsuper AND table_name = 'app_repositories'
            AND has_any_column_privilege(other.oid, table_id, 'UPDATE')
    )
FROM pg_roles WHERE rolname = current_user
"""

# Whoever may change the tables anyway is left out.
CREATORS = f"""
WITH {_TABLES}
SELECT quote_ident(nspname), CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END,
    grantee = nspowner
FROM pg_namespace CROSS JOIN aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
LEFT JOIN pg_roles r ON r.oid = grantee
WHERE nspname = ANY (%(path)s::text[]) AND privilege_type = 'CREATE' AND (
    grantee = 0
    OR rolname NOT IN (current_user, 'pg_database_owner')
        AND NOT (nspname = %(schema)s AND pg_has_role(grantee, nspowner, 'MEMBER'))
        AND NOT EXISTS (SELECT FROM tables WHERE pg_has_role(grantee, relowner, 'MEMBER'))
)
ORDER BY 1, 2
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
    schema: str  # of Docora's tables; likewise
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
    """Returns table and column for all columns of these tables that our role may name."""
    with database.transaction():
        return frozenset(database.rows(COLUMNS, _parameters(database, tables)))


def read_role(database: Database, tables: Sequence[str]) -> Role:
    """Reads the role of the connection and its privileges on these tables."""
    with database.transaction():
        parameters = _parameters(database, tables)
        [(name, schema, attributes, *facts)] = database.rows(ROLE, parameters)
        privileges = frozenset(Privilege(*found) for found in database.rows(PRIVILEGES, parameters))
    is_superuser, owned, has_narrower = facts
    return Role(
        name, schema, tuple(attributes), is_superuser, tuple(owned), has_narrower, privileges
    )


def read_creators(database: Database, tables: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Returns the other roles that may create objects on our search path.

    Of each: the schema and the role, quoted if SQL needs it, and whether the role owns the schema.
    Leaves out superusers and the owners of the database, of Docora's tables and of their schema.
    """
    with database.transaction():
        return list(database.rows(CREATORS, _parameters(database, tables)))


def _parameters(database: Database, tables: Sequence[str]) -> dict[str, object]:
    """Returns the parameters of all statements here, within a transaction."""
    return {"tables": list(tables), "schema": database.schema, "path": list(database.path)}
