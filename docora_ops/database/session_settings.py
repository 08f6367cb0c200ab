"""Settings of a session or a transaction, whatever the database or another program has set.

The search path has only `pg_catalog`: with another schema in it, a function or an operator of that
schema would run as our role wherever it fits the types of a call better.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import quote

from docora_ops.database.connection import Connection

_HAS_TRANSACTION_TIMEOUT = 170_000  # versions of Postgres from this one on

_ALWAYS = {
    "session_authorization": "DEFAULT",
    "role": "DEFAULT",
    "search_path": "pg_catalog, pg_temp",
    "datestyle": "ISO",
    "timezone": "UTC",
}

_FIND_DEFAULTS = """
SET LOCAL search_path TO DEFAULT;
SET LOCAL default_transaction_read_only TO DEFAULT;
SELECT pg_catalog.current_schemas(false),
    pg_catalog.current_setting('default_transaction_read_only');
SET LOCAL search_path TO pg_catalog, pg_temp;
SELECT nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relname = 'app_repositories' AND relkind IN ('r', 'p', 'v', 'm', 'f')
    AND relpersistence <> 't'
"""


@dataclass(frozen=True)
class Defaults:
    """The defaults of the role, the database and DATABASE_URL, not of other clients."""

    path: Sequence[str]  # schemas
    schema: str  # of Docora's tables
    is_read_only: bool


def set_up(
    connection: Connection,
    scope: str,
    settings: Mapping[str, str],
    begin: str = "",
    *,
    options: str | None,
) -> Defaults | None:
    """Sets everything in one message, after the statement `begin`.

    Finds the defaults, too, unless `options`, those of DATABASE_URL, are None. `scope`: SESSION or
    LOCAL.
    """
    settings = {**_ALWAYS, **settings}
    if connection.info.server_version >= _HAS_TRANSACTION_TIMEOUT:
        settings = {"transaction_timeout": "0", **settings}
    sql = begin + "".join(f"SET {scope} {name} TO {settings[name]};\n" for name in settings)
    if options is None:
        connection.execute(sql.encode())
        return None
    results = connection.execute((sql + _find_defaults(options)).encode()).results()
    *_, [(path, is_read_only)], rows = (each.fetchall() for each in results if each.description)
    schemas = [schema for (schema,) in rows]
    # If no schema fits, the error of the next statement names the usual one.
    usual = [*path, *schemas, "public"][0]
    schema = next((schema for schema in path if schema in schemas), usual)
    return Defaults(path, schema, is_read_only == "on")


def _find_defaults(options: str) -> str:
    # A proxy may have dropped the options.
    paths = re.findall(r"search_path=((?:\\.|\S)+)", options)
    if not paths:
        return _FIND_DEFAULTS
    path = quote(re.sub(r"\\(.)", r"\1", paths[-1]))
    return _FIND_DEFAULTS.replace(
        "SET LOCAL search_path TO DEFAULT",
        f"SELECT pg_catalog.set_config('search_path', {path}, true)",
    )
