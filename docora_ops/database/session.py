"""A session of Postgres for one snapshot job at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg import errors as pg
from psycopg import generators
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from docora_ops.database.connection import Connection
from docora_ops.database.postgres import Database
from docora_ops.settings import Settings

RELEASE_LOCKS = "SELECT pg_advisory_unlock_all()"


class Session(Database):
    """A session of the server, whose settings and locks last until it is closed, or released.

    Needs a direct connection, or a proxy that pools sessions. Statements outside of
    `transaction()` commit by themselves, without the round trips of a transaction; `together()`
    commits all its statements or none.

    These commits need not wait for the disk: what a crash of Postgres loses, such as a delivery, is
    only done again. A `transaction()` waits, and writes the commits before it to disk, too.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._prepared: dict[str, bytes] = {}
        self._id = 0

    @property
    def id(self) -> int:
        """The server's id of the session in which its locks are taken."""
        self._connect()
        return self._id

    def release(self) -> None:
        """Releases the locks of the session, so that another job can use it."""
        self.execute(RELEASE_LOCKS)

    def send(self, sql: str, parameters: Sequence[str]) -> None:
        """Sends one statement, with `$1` and so on; `receive` waits for its end.

        The server runs the statement even if this process is killed afterwards.
        """
        with self._errors():
            connection = self._connect()
            name = self._prepared.get(sql)
            if name is None:
                name = f"docora_ops_{len(self._prepared)}".encode()
                connection.pgconn.send_prepare(name, self._sql(sql))
                _check_results(connection.wait(generators.execute(connection.pgconn)))
                self._prepared[sql] = name
            values = [value.encode() for value in parameters]
            connection.pgconn.send_query_prepared(name, values)
            if connection.pgconn.flush():
                connection.wait(generators.send(connection.pgconn))

    def receive(self) -> int:
        """Waits for the statement that was sent; returns how many rows it changed or found."""
        with self._errors():
            connection = self._connect()
            return _check_results(connection.wait(generators.fetch_many(connection.pgconn)))

    def _open(self) -> Connection:
        connection = super()._open()
        connection.prepare_threshold = 1  # the same statements run for each job
        # Ends the transaction of a machine that has lost its power within minutes. A job needs that
        # long: it reads a long scan within a transaction.
        idle = f"'{self._reply_timeout}s'"
        settings = {
            "idle_in_transaction_session_timeout": idle,
            "idle_session_timeout": "0",
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": idle,
            "default_transaction_isolation": "'read committed'",
            "default_transaction_read_only": "DEFAULT",
            "synchronous_commit": "off",
        }
        self._set_up(connection, "SESSION", settings)
        # The id that the driver knows may be that of a proxy.
        [self._id] = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        return connection

    @contextmanager
    def _statement(self) -> Iterator[Connection]:
        with self._errors():
            yield self._connect()

    def _roll_back(self) -> None:
        """Ends the session: psycopg would remove all prepared statements, also those of `send`."""
        self.close()

    def _begin(self, isolation: str) -> Connection:
        connection = self._connect()
        connection.execute(
            f"BEGIN ISOLATION LEVEL {isolation}; SET LOCAL synchronous_commit TO DEFAULT".encode()
        )
        return connection


def _check_results(results: Sequence[PGresult]) -> int:
    """Returns how many rows the statements changed or found. Raises the server's error."""
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise pg.error_from_result(result)
    return sum(result.command_tuples or 0 for result in results)
