"""The database of a test process, with Docora's tables."""

import re
import time
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.rows import dict_row

# Whatever a test may add or change, in one text.
_SCHEMA = """
SELECT array_agg(shape ORDER BY shape) FROM (
    SELECT concat_ws(' ', c.relname, c.relacl, c.relrowsecurity, a.attname, t.tgname) AS shape
    FROM pg_class c
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal
    WHERE c.relnamespace = 'public'::regnamespace
) AS shapes
"""
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_TABLES = "apps, repositories, app_repositories, app_delivered_files, repository_snapshots"
# Far faster than TRUNCATE while there is little in the tables.
_EMPTY = ";".join(f"DELETE FROM {table}" for table in reversed(_TABLES.split(", ")))
# Nothing else takes away what was deleted.
_IS_LARGE = "SELECT pg_relation_size('app_repositories') > 2000000 AS is_large"


class TestDatabase:
    """A database with Docora's tables, emptied for each test, made anew if a test changed it."""

    __test__ = False

    def __init__(self, server_url: str, number: int) -> None:
        self.server_url = server_url
        self.name = f"docora_{number}"
        self.url = with_database(server_url, self.name)
        self._schema: object = None
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    def prepare(self) -> None:
        if self._schema is None:
            self._create()
            return
        try:
            self.lend().rollback()
            self.lend().execute("DISCARD ALL")
        except psycopg.OperationalError:  # a test has ended our session, too
            self.close()
        # Postgres itself would look whether they have ended only each tenth of a second.
        while self.lend().execute(_END_SESSIONS).fetchall():
            time.sleep(0.001)
        if self.lend().execute(_SCHEMA).fetchone() != self._schema:
            self._create()
            return
        row = self.lend().execute(_IS_LARGE).fetchone()
        empty = f"TRUNCATE {_TABLES} CASCADE" if row and row["is_large"] else _EMPTY
        self.lend().execute(empty.encode())

    def lend(self) -> psycopg.Connection[dict[str, Any]]:
        """Returns the one session of all tests: a new one has to read the catalogues anew."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self.url, autocommit=True, row_factory=dict_row, prepare_threshold=None
            )
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _create(self) -> None:
        self.close()
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            self.drop(connection)
            connection.execute(f"CREATE DATABASE {self.name}".encode())
        session = self.lend()
        session.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())
        self._schema = session.execute(_SCHEMA).fetchone()

    def drop(self, connection: psycopg.Connection) -> None:
        connection.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)".encode())


def with_database(url: str, database: str) -> str:
    parts = urlsplit(url)
    # urlunsplit drops the empty host of a URL that names a socket.
    return re.sub(r"^(\w+):/(?!/)", r"\1:///", urlunsplit(parts._replace(path=f"/{database}")))


def with_login(url: str, user: str, password: str) -> str:
    """Returns the URL of the same server with another user."""
    scheme, host = re.split(r"://(?:[^@/?]*@)?", url, maxsplit=1)
    return f"{scheme}://{user}:{password}@{host}"
