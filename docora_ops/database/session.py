"""A session of Postgres that a snapshot job keeps to itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg import errors as pg
from psycopg import generators
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from docora_ops.database.postgres import Connection, Database
from docora_ops.settings import Settings

SET_UP_SESSION = """
SELECT set_config('datestyle', 'ISO', false), set_config('timezone', 'UTC', false),
       set_config('statement_timeout', %(statement)s, false),
       set_config('lock_timeout', %(lock)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle)s, false),
       set_config('idle_session_timeout', '0', false),
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('tcp_user_timeout', %(idle)s, false)
"""


class Session(Database):
    """One session of the server, whose settings and locks last until it is closed.

    Needs a direct connection, or a proxy that pools sessions. A statement outside of
    `transaction()` takes effect by itself, without the round trips of a transaction.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._prepared: dict[str, bytes] = {}

    def send(self, sql: str, parameters: Sequence[str]) -> None:
        """Have the server run one statement, with `$1` and so on; `receive` waits for its end.

        Once this returns the statement is the server's, whatever becomes of this process.
        """
        with self._errors():
            connection = self._connect()
            name = self._prepared.get(sql)
            if name is None:
                name = f"docora_ops_{len(self._prepared)}".encode()
                connection.pgconn.send_prepare(name, sql.encode())
                _check_results(connection.wait(generators.execute(connection.pgconn)))
                self._prepared[sql] = name
            values = [value.encode() for value in parameters]
            connection.pgconn.send_query_prepared(name, values)
            if connection.pgconn.flush():
                connection.wait(generators.send(connection.pgconn))

    def receive(self) -> int:
        """Wait for the statement that was sent; returns how many rows it touched or found."""
        with self._errors():
            connection = self._connect()
            return _check_results(connection.wait(generators.fetch_many(connection.pgconn)))

    def _open(self) -> Connection:
        connection = super()._open()
        connection.execute(
            SET_UP_SESSION,
            {
                "statement": f"{self._settings.statement_timeout}s",
                "lock": f"{self._lock_timeout:.1f}s",
                # Or the locks of a machine that has lost its power are held for hours. A job
                # locks its own link only, and reads a long scan within a transaction.
                "idle": f"{self._reply_timeout}s",
            },
        )
        return connection

    @contextmanager
    def _statement(self) -> Iterator[Connection]:
        with self._errors():
            yield self._connect()

    def _begin(self, isolation: str) -> Connection:
        connection = self._connect()
        connection.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
        return connection


def _check_results(results: Sequence[PGresult]) -> int:
    """Returns how many rows the statements touched. Raises the error of the server."""
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise pg.error_from_result(result)
    return sum(result.command_tuples or 0 for result in results)
