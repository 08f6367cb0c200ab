"""Connecting to Postgres, and turning its errors into ours.

A proxy may give each transaction to another session of the server, which other programs use before
and after. So no setting, cursor, prepared statement or lock of a `Database` outlives a transaction.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.abc import Buffer, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import _WaitTimeout
from psycopg.rows import TupleRow
from psycopg.types.datetime import TimestamptzLoader

from docora_ops.errors import (
    ConfigurationError,
    LinkError,
    LinkLockedError,
    PoolingError,
    PostgresError,
    StatementTimeoutError,
)
from docora_ops.settings import Settings
from docora_ops.text import mask

# What goes wrong it also raises, but for a rollback that no longer matters; and its text may have
# secrets in it.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_IDLE_LIMIT = 6
"""Seconds that a transaction may be idle: longer than Redis and another batch keep it waiting."""

_REPLY_GRACE = 5
"""Seconds beyond the statement timeout after which a silent server counts as lost."""

_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})

# Whatever isolation, style and zone the database is set to, transactions see what is committed
# before each statement, and moments are read in one form.
BEGIN = """BEGIN ISOLATION LEVEL {isolation};
SET LOCAL datestyle = 'ISO';
SET LOCAL timezone = 'UTC';
SET LOCAL statement_timeout = '{statement}s';
SET LOCAL lock_timeout = '{lock}s';
SET LOCAL idle_in_transaction_session_timeout = '{idle}s'"""

_STATEMENT_POOLING = "statement pooling"
"""PgBouncer says this of a BEGIN; the code of its error says nothing."""

_FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC)
_LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

Parameters = Mapping[str, object]
RV = TypeVar("RV")


class Connection(psycopg.Connection[TupleRow]):
    """A connection that does not wait for a server that has gone silent."""

    reply_timeout: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server, as long as `reply_timeout` unless told otherwise."""
        return super().wait(gen, interval, self.reply_timeout if timeout is None else timeout)


class _MomentLoader(TimestamptzLoader):
    """Takes `infinity`, and whatever else Python has no year for, for its first or last moment.

    Or one such row would keep all that are read with it from being shown.
    """

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            is_past = bytes(data).startswith(b"-") or bytes(data).endswith(b"BC")
            return _FIRST_MOMENT if is_past else _LAST_MOMENT


@dataclass(frozen=True, slots=True)
class Target:
    """Which database, in words that may be shown."""

    host: str
    database: str

    def __str__(self) -> str:
        return f"{self.database} on {self.host}"


class Database:
    """One connection to Docora's database, with or without a pooling proxy in between.

    Connects when first used. Each statement outside of `transaction()` runs in a transaction of
    its own. All calls raise PostgresError.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = settings.require_database_url().get_secret_value()
        try:
            self._parameters: dict[str, Any] = conninfo_to_dict(self._secret)
            _check(self._parameters)
        except (psycopg.Error, ValueError):
            # The driver's text would show the password.
            raise ConfigurationError(
                "DATABASE_URL is not a URL that Postgres understands",
                hint="use postgres://USER:PASSWORD@HOST:PORT/DATABASE; percent-encode special "
                "characters in the password, and leave out options that are not Postgres's own",
            ) from None
        self.target = Target(
            str(self._parameters.get("host") or "localhost"),
            str(self._parameters.get("dbname") or self._parameters.get("user") or "postgres"),
        )
        self._connection: Connection | None = None
        self._in_transaction = False

    @property
    def _lock_timeout(self) -> float:
        """Shorter than the statement's, which would end the wait without a reason."""
        settings = self._settings
        return min(float(settings.lock_timeout), settings.statement_timeout * 0.9)

    @property
    def _reply_timeout(self) -> int:
        """Seconds after which a server or client that does not answer counts as lost."""
        return self._settings.statement_timeout + _REPLY_GRACE

    @property
    def session_id_of_driver(self) -> int:
        """Process id of the session as told when connecting: a proxy tells another than Postgres.

        Raises PostgresError.
        """
        return self._connect().info.backend_pid

    def sibling(self) -> Database:
        """Another connection to the same database, for another thread."""
        return Database(self._settings)

    def close(self) -> None:
        """Close the connection; what was not committed is rolled back."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end, roll back on any exception; `Rollback` ends only the block."""
        with self._transaction("READ COMMITTED"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A transaction whose statements all see the database at one moment."""
        with self._transaction("REPEATABLE READ"):
            yield

    def rows(self, sql: str, parameters: Parameters | None = None) -> Sequence[TupleRow]:
        """Run one statement and return its rows."""
        with self._statement() as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def row(self, sql: str, parameters: Parameters | None = None) -> TupleRow | None:
        """Run one statement and return its first row, if any."""
        with self._statement() as connection:
            return connection.execute(sql.encode(), parameters).fetchone()

    def execute(self, sql: str, parameters: Parameters | None = None) -> int:
        """Run one statement and return how many rows it touched."""
        with self._statement() as connection:
            return connection.execute(sql.encode(), parameters).rowcount

    def stream(
        self, sql: str, parameters: Parameters | None = None, *, at_once: int = 1
    ) -> Iterator[TupleRow]:
        """Run one statement and yield its rows as they come; ends before the next statement.

        `at_once`: how many rows the driver takes from the server together.
        """
        with self._statement() as connection, connection.cursor() as cursor:
            yield from cursor.stream(sql.encode(), parameters, size=at_once)

    def copy(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one `COPY … FROM STDIN` with these rows."""
        with (
            self._statement() as connection,
            connection.cursor() as cursor,
            cursor.copy(sql.encode()) as copy,
        ):
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def _statement(self) -> Iterator[Connection]:
        """The connection, in a transaction that commits with the statement if none is open."""
        if self._in_transaction:
            with self._errors():
                yield self._connect()
        else:
            with self._transaction("READ COMMITTED") as connection:
                yield connection

    @contextmanager
    def _transaction(self, isolation: str) -> Iterator[Connection]:
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
                connection.execute(b"COMMIT")
            finally:
                self._in_transaction = False

    def _begin(self, isolation: str) -> Connection:
        """Begin a transaction with all settings of ours, in one message."""
        statements = BEGIN.format(
            isolation=isolation,
            statement=self._settings.statement_timeout,
            lock=f"{self._lock_timeout:.1f}",
            idle=_IDLE_LIMIT,
        ).encode()
        connection = self._connect()
        try:
            connection.execute(statements)
        except pg.IdleSessionTimeout:
            # Between two transactions there was nothing to lose.
            self._connection = None
            connection = self._connect()
            connection.execute(statements)
        return connection

    def _roll_back(self) -> None:
        """End the transaction: with its connection, where that is lost or still at work."""
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
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": self._reply_timeout * 1000,
            }
            | self._parameters
            | {"client_encoding": "utf8"}
        )
        # The driver would prepare what is executed often, and the next session does not know it.
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
                return PostgresError(
                    f"{where} refuses: {text}",
                    hint="docora-ops help privileges lists what the role in DATABASE_URL needs",
                )
            case pg.ReadOnlySqlTransaction():
                return PostgresError(
                    f"{where} is read-only", hint="point DATABASE_URL at the primary"
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
            case psycopg.OperationalError() | psycopg.InterfaceError():
                return PostgresError(
                    f"{where} can't be used: {text}", hint="check that it runs, and DATABASE_URL"
                )
        return LinkError(f"{where} refuses: {text}", hint="see the database's log")

    def _primary_message(self, error: psycopg.Error) -> str:
        """The server's or the driver's one sentence, with secrets cut out."""
        text = error.diag.message_primary or str(error).strip() or type(error).__name__
        # The driver tells of each address that it tried, with advice on further lines.
        reasons = re.findall(r".*failed: (?:FATAL: +)?(.+)", text)
        text = reasons[-1] if reasons else text.splitlines()[0]
        secrets = (self._parameters.get(name) for name in ("password", "sslpassword"))
        return mask(text, [self._secret, *secrets])


def _check(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for what the driver would only notice when it connects."""
    if int(parameters.get("connect_timeout") or 1) < 1:
        raise ValueError("connect_timeout")  # would be no limit at all
    if parameters.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError("sslmode")
    for port in str(parameters.get("port") or "").split(","):
        if port and not 0 < int(port) < 1 << 16:
            raise ValueError("port")
