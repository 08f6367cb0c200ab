"""Connecting to Postgres, and turning its errors into ours.

A pooling proxy may run each transaction in another session, shared with other programs. So no
setting, cursor, prepared statement or lock of a `Database` outlives a transaction, and none that
another program has left counts in it.

SQL names Docora's tables as `docora.TABLE`, whatever their schema is called in this database.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import _WaitTimeout
from psycopg.rows import TupleRow
from psycopg.types.datetime import TimestamptzLoader

from docora_ops.database.connection import REPLY_GRACE, Connection, has_committed, transaction_id
from docora_ops.database.session_settings import set_up
from docora_ops.errors import (
    ConfigurationError,
    LinkError,
    LinkLockedError,
    PoolingError,
    PostgresDeniedError,
    PostgresError,
    StatementTimeoutError,
)
from docora_ops.settings import Settings
from docora_ops.text import mask
from docora_ops.urls import adapt_postgres_url

# psycopg raises what it logs, apart from failed rollbacks, and the text may hold secrets.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_IDLE_LIMIT = 6
"""Seconds that a transaction may be idle: longer than a call of Redis with rows locked."""

_ROWS_AT_ONCE = 1000

_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})

_STATEMENT_POOLING = "statement pooling"
"""Part of PgBouncer's error for BEGIN; its SQLSTATE is not specific."""

# The driver does not pass on the SQLSTATE of a refused login.
_REFUSED_LOGIN = re.compile(
    "(password|authentication) .*failed|no pg_hba.conf entry|not permitted to log in"
    '|role ".*" does not exist|denied for database'
)
_NO_PRIMARY = re.compile(r"failed: (session is read-only|server is in hot standby mode)")
"""The reason that libpq gives for each host that `target_session_attrs` rules out."""
_RESTARTS = tuple(
    f"the database system is {state}"
    for state in ("starting up", "shutting down", "in recovery mode", "not yet accepting")
)

_FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC)
_LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

Parameters = Mapping[str, object]


class _MomentLoader(TimestamptzLoader):
    """Loads `infinity` and years that Python can't express as the first or last moment.

    Otherwise one such row would make the whole list unreadable.
    """

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            is_past = bytes(data).startswith(b"-") or bytes(data).endswith(b"BC")
            return _FIRST_MOMENT if is_past else _LAST_MOMENT


class Database:
    """One connection to Docora's database, which connects when first used.

    A statement outside of `transaction()` runs in its own transaction. All calls raise
    PostgresError.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = settings.require_database_url().get_secret_value()
        try:
            url, _ = adapt_postgres_url(self._secret)
            self._parameters: dict[str, Any] = conninfo_to_dict(url)
            _check(self._parameters)
        except (psycopg.Error, ValueError):
            # The driver's text would show the password.
            raise ConfigurationError(
                "DATABASE_URL is not a URL that Postgres understands",
                hint="use postgres://USER:PASSWORD@HOST:PORT/DATABASE; percent-encode special "
                "characters in the password, and leave out options that are not Postgres's own",
            ) from None
        host = self._parameters.get("host") or "localhost"
        name = self._parameters.get("dbname") or self._parameters.get("user") or "postgres"
        self.target = f"{name} on {host}"
        # Known once a transaction has begun:
        self.schema = ""  # the schema of Docora's tables
        self.path: Sequence[str] = ()  # the schemas on the default search path
        self._access = "READ WRITE"
        # Shorter than the statement timeout, whose error does not mention the lock.
        self._lock_timeout = min(float(settings.lock_timeout), settings.statement_timeout * 0.9)
        self._reply_timeout = settings.statement_timeout + REPLY_GRACE
        self._connection: Connection | None = None
        self._in_transaction = False

    @property
    def place(self) -> str:
        """The database, its server and, once known, the schema."""
        return f"{self.target} (schema {self.schema})" if self.schema else self.target

    @property
    def session_id_of_driver(self) -> int:
        """The session id that was reported when connecting; a proxy reports an id of its own."""
        return self._connect().info.backend_pid

    def sibling(self) -> Database:
        """Returns another connection to the same database, for another thread."""
        return Database(self._settings)

    def close(self) -> None:
        """Closes the connection, which rolls back an open transaction."""
        if self._connection is not None:
            self._connection.close()

    def transaction(self, *, asks_if_lost: bool = False) -> AbstractContextManager[object]:
        """Commits at the end of the block, or rolls back on an exception; swallows `Rollback`.

        `asks_if_lost`: if the connection breaks before the commit is confirmed, a new connection
        asks whether it was made, and replaces the broken one if so.
        """
        return self._transaction("READ COMMITTED", asks_if_lost=asks_if_lost)

    def snapshot(self) -> AbstractContextManager[object]:
        """Begins a transaction whose statements all see the same state of the database."""
        return self._transaction("REPEATABLE READ")

    def rows(self, sql: str, parameters: Parameters | None = None) -> Sequence[TupleRow]:
        """Runs one statement and returns its rows."""
        with self._statement() as connection:
            return connection.execute(self._sql(sql, parameters), parameters).fetchall()

    def row(self, sql: str, parameters: Parameters | None = None) -> TupleRow | None:
        """Runs one statement and returns its first row, if any."""
        with self._statement() as connection:
            return connection.execute(self._sql(sql, parameters), parameters).fetchone()

    def latency(self) -> float:
        """Returns the seconds that one answer takes."""
        with self._transaction("READ COMMITTED") as connection:
            began = time.monotonic()
            connection.execute(b"SELECT 1")
            return time.monotonic() - began

    def execute(self, sql: str, parameters: Parameters | None = None) -> int:
        """Runs one statement and returns how many rows it touched."""
        with self._statement() as connection:
            return connection.execute(self._sql(sql, parameters), parameters).rowcount

    def together(self, *statements: tuple[str, Parameters]) -> list[Sequence[TupleRow]]:
        """Runs statements one after the other in one round trip; returns the rows of each."""
        with self._statement() as connection:
            with connection.pipeline():
                cursors = [
                    connection.execute(self._sql(sql, values), values) for sql, values in statements
                ]
            return [cursor.fetchall() if cursor.description else () for cursor in cursors]

    def stream(self, sql: str, parameters: Parameters | None = None) -> Iterator[TupleRow]:
        """Runs one statement and yields its rows; read all rows before the next statement.

        That must not be `together`: libpq would take its rows in pieces, too.
        """
        with self._statement() as connection, connection.cursor() as cursor:
            yield from cursor.stream(self._sql(sql, parameters), parameters, size=_ROWS_AT_ONCE)

    def copy(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Runs one `COPY … FROM STDIN` with these rows."""
        with (
            self._statement() as connection,
            connection.cursor() as cursor,
            cursor.copy(self._sql(sql)) as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def _sql(self, sql: str, parameters: Parameters | None = None) -> bytes:
        """Returns the SQL with the name of Docora's schema."""
        name = self.schema if parameters is None else self.schema.replace("%", "%%")
        return sql.replace("docora.", '"{}".'.format(name.replace('"', '""'))).encode()

    @contextmanager
    def _statement(self) -> Iterator[Connection]:
        """Yields the connection, in a transaction for one statement if none is open."""
        if self._in_transaction:
            with self._errors():
                yield self._connect()
        else:
            with self._transaction("READ COMMITTED") as connection:
                yield connection

    @contextmanager
    def _transaction(self, isolation: str, *, asks_if_lost: bool = False) -> Iterator[Connection]:
        with self._errors():
            assert not self._in_transaction  # noqa: S101 - or the inner would commit the outer
            self._in_transaction = True
            try:
                connection = self._begin(isolation)
                yield connection
            except BaseException as error:
                self._roll_back()
                if not isinstance(error, psycopg.Rollback):
                    raise
            else:
                self._commit(connection, asks_if_lost=asks_if_lost)
            finally:
                self._in_transaction = False

    def _commit(self, connection: Connection, *, asks_if_lost: bool) -> None:
        number = transaction_id(connection) if asks_if_lost else None
        try:
            connection.execute(b"COMMIT")
        except psycopg.OperationalError as error:
            if number is None or not connection.closed:
                raise
            with suppress(psycopg.Error):
                self._connection = self._open()
                if has_committed(self._connection, number):
                    return
            raise error from None

    def _begin(self, isolation: str) -> Connection:
        try:
            self._send_begin(isolation)
        except pg.IdleSessionTimeout:
            # No transaction was open, so nothing is lost.
            self._connection = None
            self._send_begin(isolation)
        except pg.FeatureNotSupported:
            self._access = ""  # a standby refuses READ WRITE
            self._send_begin(isolation)
        return self._connect()

    def _send_begin(self, isolation: str) -> None:
        settings = {
            "idle_in_transaction_session_timeout": f"'{_IDLE_LIMIT}s'",
            "synchronous_commit": "DEFAULT",
        }
        begin = f"BEGIN ISOLATION LEVEL {isolation} {self._access};\n"
        self._set_up(self._connect(), "LOCAL", settings, begin)

    def _set_up(
        self, connection: Connection, scope: str, settings: Mapping[str, str], begin: str = ""
    ) -> None:
        settings = {
            "statement_timeout": f"'{self._settings.statement_timeout}s'",
            "lock_timeout": f"'{self._lock_timeout:.1f}s'",
            **settings,
        }
        options = None if self.schema else str(self._parameters.get("options") or "")
        found = set_up(connection, scope, settings, begin, options=options)
        if found:
            self.path, self.schema = found.path, found.schema
            if found.is_read_only:
                self._access = "READ ONLY"
                connection.execute(b"SET TRANSACTION READ ONLY")

    def _roll_back(self) -> None:
        """Rolls back, or closes the connection if it is lost or busy."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:
            connection.execute(b"ROLLBACK")
        except psycopg.Error:
            connection.close()

    def _connect(self) -> Connection:
        if self._connection is None:
            with self._errors():
                self._connection = self._open()
        return self._connection

    def _open(self) -> Connection:
        settings = self._settings
        parameters: dict[str, Any] = (
            {
                "connect_timeout": settings.connect_timeout,
                "application_name": "docora-ops",
                "sslpassword": " ",  # without one, libpq asks the terminal for that of the key
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": self._reply_timeout * 1000,
            }
            | self._parameters
            | {"client_encoding": "utf8"}
        )
        # A prepared statement would be unknown in the next session of a pooling proxy.
        connection = Connection.connect(**parameters, autocommit=True, prepare_threshold=None)
        connection.adapters.register_loader("timestamptz", _MomentLoader)
        connection.reply_timeout = self._reply_timeout
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if isinstance(error, _WaitTimeout) and self._connection is not None:
                self._connection.close()
            raise self._explain(error) from error
        except UnicodeEncodeError as error:
            raise PostgresError(
                "a value is not valid Unicode and can't be sent to Postgres",
                hint="check the arguments for stray bytes",
            ) from error

    def _explain(self, error: psycopg.Error) -> PostgresError:
        where = f"Postgres database {self.target}"
        text = self._primary_message(error)
        match error:
            case _WaitTimeout() | pg.ConnectionTimeout():
                return PostgresError(
                    f"{where} did not answer in time", hint="check its load and the network"
                )
            case pg.IdleInTransactionSessionTimeout():
                return PostgresError(
                    f"{where} ended a transaction of ours that was idle for {_IDLE_LIMIT} s",
                    hint="it was stopped, as by Ctrl-Z, or Redis or this machine is too slow",
                )
            case pg.LockNotAvailable():
                return LinkLockedError(
                    f"another session has held a lock for over {self._lock_timeout:g} s",
                    hint="try again; pg_stat_activity in the database shows who it is",
                )
            case pg.QueryCanceled():
                return StatementTimeoutError(
                    f"{where} did not finish a statement within "
                    f"{self._settings.statement_timeout} s",
                    hint="check its load, or raise DOCORA_OPS_STATEMENT_TIMEOUT",
                )
            case pg.UndefinedTable() | pg.UndefinedColumn():
                return PostgresError(
                    f"{where} is not a Docora database: {text}",
                    hint="point DATABASE_URL at the database that Docora uses, and let the role "
                    "use its schema: docora-ops help privileges",
                )
            case pg.InsufficientPrivilege():
                return PostgresDeniedError(
                    f"{where} refuses: {text}",
                    hint="docora-ops help privileges lists what the role in DATABASE_URL needs",
                )
            case pg.ReadOnlySqlTransaction():
                return PostgresError(
                    f"{where} is read-only",
                    hint="point DATABASE_URL at the primary; if this is a standby that takes over, "
                    "try again once it is promoted",
                )
            case pg.DeadlockDetected() | pg.SerializationFailure():
                return LinkError(f"{where} undid a change: {text}", hint="try again")
            case psycopg.OperationalError() if _STATEMENT_POOLING in text:
                return PoolingError(
                    f"{where} is behind a proxy that pools statements, and docora-ops needs "
                    "transactions",
                    hint="have the proxy pool transactions or sessions (in PgBouncer: pool_mode), "
                    "or point DATABASE_URL at Postgres itself",
                )
            case psycopg.OperationalError() if _REFUSED_LOGIN.search(text):
                return PostgresDeniedError(
                    f"{where} refuses our login: {text}",
                    hint="check the role and the password in DATABASE_URL, and pg_hba.conf",
                )
            case psycopg.OperationalError() if _NO_PRIMARY.search(str(error)):
                return PostgresError(
                    f"{where} can't be used: no host of DATABASE_URL takes writes at present",
                    hint="try again once a standby is promoted; else check whether transactions of "
                    "the role are read-only, since target_session_attrs admits no such host",
                )
            case psycopg.OperationalError() if self._connection is None and "FATAL" not in str(
                error
            ):
                reason, hint = _unreachable(text)
                return PostgresError(f"{where} can't be reached: {reason}", hint=hint)
            case psycopg.OperationalError() | psycopg.InterfaceError():
                return PostgresError(f"{where} can't be used: {text}", hint=_hint(text))
        return LinkError(f"{where} refuses: {text}", hint="see the database's log")

    def _primary_message(self, error: psycopg.Error) -> str:
        """Returns the main sentence of the server or the driver, with secrets masked."""
        text = error.diag.message_primary or str(error).strip() or type(error).__name__
        # The driver lists each address that it tried, with hints on further lines.
        reasons = re.findall(r".*failed: (?:FATAL: +)?(.+)", text)
        text = reasons[-1] if reasons else text.splitlines()[0]
        secrets = (self._parameters.get(name) for name in ("password", "sslpassword"))
        return mask(text, [self._secret, *secrets])


def _unreachable(text: str) -> tuple[str, str]:
    """Returns why the driver got no connection, and what to do."""
    found = re.match(r"failed to resolve host '(.+?)': \[Errno (-?\d+)\]", text)
    if found is None:
        if text[1:2].islower():  # not an abbreviation, such as SSL
            text = text[0].lower() + text[1:]
        return text, _hint(text)
    host, number = found.groups()
    if int(number) == socket.EAI_AGAIN:
        reason = f"the name {host} can't be looked up at present"
        return reason, "check the host in DATABASE_URL, and the name server"
    return f"no host named {host}", "check the host in DATABASE_URL"


def _hint(text: str) -> str:
    """Returns what to do about a connection that was refused or lost."""
    if text.startswith(_RESTARTS):
        return "try again in a moment"
    if re.search("certificate|private key|unknown ca", text):
        return "check the files of sslrootcert, sslcert and sslkey in DATABASE_URL, and sslpassword"
    return "check that it runs, and DATABASE_URL"


def _check(parameters: Mapping[str, Any]) -> None:
    """Raises ValueError for values that the driver would refuse only when it connects."""
    if int(parameters.get("connect_timeout") or 1) < 1:
        raise ValueError("connect_timeout")  # 0 means no limit
    if parameters.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError("sslmode")
    for host in str(parameters.get("host") or "").split(","):
        if not host.startswith("/"):
            host.encode("idna")  # as the look-up does
    for port in str(parameters.get("port") or "").split(","):
        if port and not 0 < int(port) < 1 << 16:
            raise ValueError("port")
