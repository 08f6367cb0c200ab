"""Connects to Postgres and runs SQL. The only module that knows the driver's errors.

Nothing outlives a transaction: no setting, no prepared statement, no lock. So a proxy that pools
transactions may stand between.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from docora_ops.errors import ConfigurationError, LinkError, LinkLockedError, PostgresError
from docora_ops.settings import Settings
from docora_ops.text import mask

# What psycopg logs is also raised, and may hold secrets.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

LOCK_TIMEOUT = 5  # seconds
IDLE_TIMEOUT = 30  # seconds in a transaction: longer than a call to Redis while rows are locked
_REPLY_GRACE = 5  # seconds after the statement timeout until a silent server counts as lost
_ROWS_AT_ONCE = 1000
_BEGIN = """BEGIN;
SET LOCAL statement_timeout = '{statement}s';
SET LOCAL lock_timeout = '{lock}s';
SET LOCAL idle_in_transaction_session_timeout = '{idle}s';
"""

Parameters = Mapping[str, object]
RV = TypeVar("RV")


class _Connection(psycopg.Connection[TupleRow]):
    """A connection that gives up on a server that does not answer."""

    reply_timeout: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Waits for the server, by default `reply_timeout` seconds. Raises ConnectionTimeout."""
        timeout = self.reply_timeout if timeout is None else timeout
        end = None if timeout is None else time.monotonic() + timeout
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if end is None or time.monotonic() < end:
                raise
            self.close()
            raise pg.ConnectionTimeout from error


class Database:
    """One connection to Docora's database, made when first used. All calls raise PostgresError.

    A statement outside of `transaction()` runs in a transaction of its own.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.require_database_url().get_secret_value()
        try:
            conninfo: dict[str, Any] = conninfo_to_dict(url)
        except psycopg.Error:  # its text would show the password
            raise ConfigurationError(
                "DATABASE_URL is not a URL that Postgres understands",
                hint="use postgres://USER:PASSWORD@HOST:PORT/DATABASE; percent-encode special "
                "characters in the password, and leave out options that are not Postgres's own",
            ) from None
        name = str(conninfo.get("dbname") or conninfo.get("user") or "postgres")
        host = str(conninfo.get("host") or conninfo.get("hostaddr") or "localhost")
        port = str(conninfo.get("port") or "5432")
        self.server = f"{name} on {host}" + ("" if port == "5432" else f":{port}")
        self._secrets = [url, conninfo.get("password"), conninfo.get("sslpassword")]
        self._statement_timeout = settings.statement_timeout
        self._reply_timeout = settings.statement_timeout + _REPLY_GRACE
        # libpq's own variables must not lead to a server that no screen names.
        self._parameters: dict[str, Any] = (
            {"host": "", "hostaddr": "", "port": "", "dbname": name, "options": ""}
            | {
                "connect_timeout": settings.connect_timeout,
                "application_name": "docora-ops",
                "sslpassword": " ",  # otherwise, libpq may ask for one on the terminal
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": self._reply_timeout * 1000,
            }
            | conninfo
            | {"client_encoding": "utf8"}
        )
        self._begin = _BEGIN.format(
            statement=settings.statement_timeout,
            # Shorter than the statement timeout, whose error does not mention the lock.
            lock=min(LOCK_TIMEOUT, settings.statement_timeout * 0.9),
            idle=IDLE_TIMEOUT,
        ).encode()
        self._connection: _Connection | None = None
        self._cursor: psycopg.Cursor[TupleRow] | None = None  # of the open transaction
        self._has_begun = False  # whether the server knows of the transaction

    def close(self) -> None:
        """Closes the connection, which rolls back an open transaction. The next use reconnects."""
        connection, self._connection = self._connection, None
        if connection is None or connection.closed:
            return
        if connection.info.transaction_status == TransactionStatus.ACTIVE:
            # A signal has ended the wait for a statement, whose locks the server would keep.
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=_REPLY_GRACE)
        connection.close()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[TupleRow]]:
        """Yields a cursor. Commits at the end of the block, or rolls back on an exception.

        Within another transaction, belongs to it. BEGIN goes with the first statement.
        """
        try:
            if self._cursor is not None:
                yield self._cursor
                return
            if self._connection is None or self._connection.closed:
                # Binds on the client, so that several statements can go together. A prepared
                # statement may be unknown in the next session of a pooling proxy.
                self._connection = _Connection.connect(
                    **self._parameters,
                    autocommit=True,
                    prepare_threshold=None,
                    cursor_factory=psycopg.ClientCursor,
                )
                self._connection.reply_timeout = self._reply_timeout
            self._cursor, self._has_begun = self._connection.cursor(), False
            cursor = self._cursor
            try:
                yield cursor
                if self._has_begun:
                    cursor.execute(b"COMMIT")
            except BaseException:
                try:
                    cursor.execute(b"ROLLBACK")
                except psycopg.Error:  # the connection is lost or busy
                    self.close()
                raise
            finally:
                self._cursor = None
        except psycopg.Error as error:
            raise self._explain(error) from error
        except UnicodeError as error:
            raise PostgresError(
                f"a value can't be sent to Postgres database {self.server}: {error}",
                hint="check the arguments for stray bytes, and the host in DATABASE_URL",
            ) from error

    def rows(self, sql: str, parameters: Parameters | None = None) -> Sequence[TupleRow]:
        """Runs one statement and returns its rows."""
        with self._run(sql, parameters) as cursor:
            return cursor.fetchall()

    def execute(self, sql: str, parameters: Parameters | None = None) -> int:
        """Runs one statement and returns the number of affected rows."""
        with self._run(sql, parameters) as cursor:
            return cursor.rowcount

    def stream(self, sql: str, parameters: Parameters | None = None) -> Iterator[TupleRow]:
        """Runs one statement and yields its rows. Read all rows before the next statement."""
        with self._begun() as cursor:
            yield from cursor.stream(sql.encode(), parameters or {}, size=_ROWS_AT_ONCE)

    def copy(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Runs `COPY … FROM STDIN` with these rows."""
        with self._begun() as cursor, cursor.copy(sql.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def _run(self, sql: str, parameters: Parameters | None) -> Iterator[psycopg.Cursor[TupleRow]]:
        """Runs one statement, with BEGIN if it is the first one, with COMMIT if it is alone."""
        is_alone = self._cursor is None
        with self.transaction() as cursor:
            begin = b"" if self._has_begun else self._begin
            self._has_begun = not is_alone
            text = begin + sql.encode() + (b"\n;COMMIT" if is_alone else b"")
            cursor.execute(text, parameters or {})
            cursor.set_result(-2 if is_alone else -1)
            yield cursor

    @contextmanager
    def _begun(self) -> Iterator[psycopg.Cursor[TupleRow]]:
        with self.transaction() as cursor:
            if not self._has_begun:
                self._has_begun = True
                cursor.execute(self._begin)
            yield cursor

    def _explain(self, error: psycopg.Error) -> PostgresError:
        """Translates an error of the driver to one of ours, with a hint and without secrets."""
        kind: type[PostgresError] = PostgresError
        text = error.diag.message_primary or str(error).strip() or type(error).__name__
        # The driver lists each address that it tried, with hints on further lines.
        reasons = re.findall(r".*failed: (?:FATAL: +)?(.+)", text)
        text = mask(reasons[-1] if reasons else text.splitlines()[0], self._secrets)
        match error:
            case pg.LockNotAvailable():
                kind = LinkLockedError
                problem = f"has a row that another session has locked for over {LOCK_TIMEOUT} s"
                hint = "try again; pg_stat_activity in the database shows who it is"
            case pg.ConnectionTimeout():
                problem, hint = "did not answer in time", "check its load and the network"
            case pg.QueryCanceled():
                kind = LinkError
                problem = f"did not finish a statement within {self._statement_timeout} s"
                hint = "check its load, or raise DOCORA_OPS_STATEMENT_TIMEOUT"
            case pg.UndefinedTable() | pg.UndefinedColumn():
                problem = f"is not a Docora database: {text}"
                hint = "point DATABASE_URL at the database that Docora uses"
            case pg.InsufficientPrivilege():
                problem = f"refuses: {text}"
                hint = "docora-ops help privileges lists what the role in DATABASE_URL needs"
            case pg.ReadOnlySqlTransaction():
                problem = (
                    "takes no changes: it is a standby, or default_transaction_read_only is on"
                )
                hint = "point DATABASE_URL at the primary; for several hosts, add "
                hint += "target_session_attrs=read-write"
            case psycopg.DatabaseError() if not isinstance(
                error, psycopg.OperationalError | pg.IdleInTransactionSessionTimeout
            ):
                kind, problem, hint = LinkError, f"refuses: {text}", "see the server's log"
            case pg.DeadlockDetected() | pg.SerializationFailure():
                kind, problem = LinkError, f"broke off for another session: {text}"
                hint = "try again"
            case _:
                how = "used" if self._connection or "FATAL" in str(error) else "reached"
                if text[1:2].islower():  # not an abbreviation, such as SSL
                    text = text[0].lower() + text[1:]
                problem = f"can't be {how}: {text}"
                hint = "check that it is running, and check the URL: user, password, host, sslmode"
        return kind(f"Postgres database {self.server} {problem}", hint=hint)
