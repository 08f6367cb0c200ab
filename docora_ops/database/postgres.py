"""Connecting to Postgres.

A pooling proxy may run each transaction in another session, shared with other programs. So no
setting, cursor, prepared statement or lock of a `Database` outlives a transaction, and none that
another program has left counts in it.

SQL names Docora's tables as `docora.TABLE`, whatever their schema is called in this database.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.abc import Buffer, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.sql import quote
from psycopg.types.datetime import TimestamptzLoader

from docora_ops.database.postgres_errors import IDLE_LIMIT, ReplyTimeoutError, explain
from docora_ops.errors import ConfigurationError, PostgresError
from docora_ops.settings import Settings, adapt_url

# psycopg raises what it logs, apart from failed rollbacks, and the text may hold secrets.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

REPLY_GRACE = 5
"""Seconds beyond the statement timeout after which a silent server counts as lost."""
_ROWS_AT_ONCE = 1000
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_HAS_TRANSACTION_TIMEOUT = 170_000
"""Versions of Postgres from this one on."""

# The search path has only `pg_catalog`: with another schema in it, a function or an operator of
# that schema would run as our role wherever it fits the types of a call better.
_ALWAYS = {
    "session_authorization": "DEFAULT",
    "role": "DEFAULT",
    "search_path": "pg_catalog, pg_temp",
    "datestyle": "ISO",
    "timezone": "UTC",
}

# The path of the role, the database and DATABASE_URL, not that of another client of a pool.
_FIND_SCHEMAS = """
SET LOCAL search_path TO DEFAULT;
SELECT pg_catalog.current_schemas(false);
SET LOCAL search_path TO pg_catalog, pg_temp;
SELECT nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relname = 'app_repositories' AND relkind IN ('r', 'p', 'v', 'm', 'f')
    AND relpersistence <> 't'
"""

_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)

Parameters = Mapping[str, object]
RV = TypeVar("RV")


class Connection(psycopg.Connection[TupleRow]):
    """A connection that gives up on a server that does not answer."""

    reply_timeout: float | None = None
    """Seconds."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Waits for the server, by default for `reply_timeout`."""
        if timeout is None:
            timeout = self.reply_timeout
        end = None if timeout is None else time.monotonic() + timeout
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if end is None or time.monotonic() < end:
                raise
            self.close()
            raise ReplyTimeoutError from error


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
        self._url = settings.require_database_url().get_secret_value()
        try:
            self._parameters: dict[str, Any] = conninfo_to_dict(adapt_url(self._url))
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
    def id_told_at_login(self) -> int:
        """The session id that was reported when connecting; a proxy reports an id of its own."""
        return self._connect().info.backend_pid

    def sibling(self) -> Database:
        """Returns another connection to the same database, for another thread."""
        return Database(self._settings)

    def close(self) -> None:
        """Closes the connection, which rolls back an open transaction."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        if connection.info.transaction_status == TransactionStatus.ACTIVE:
            # A signal has ended the wait for a statement, whose locks the server would keep.
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=REPLY_GRACE)
        connection.close()

    def transaction(self) -> AbstractContextManager[object]:
        """Commits at the end of the block, or rolls back on an exception; swallows `Rollback`.

        Refused by a standby, unlike single statements that only read.
        """
        return self._transaction("READ COMMITTED READ WRITE")

    def snapshot(self) -> AbstractContextManager[object]:
        """Begins a transaction whose statements all see the same state of the database."""
        return self._transaction("REPEATABLE READ")

    def rows(self, sql: str, parameters: Parameters | None = None) -> Sequence[TupleRow]:
        """Runs one statement and returns its rows."""
        with self._statement() as connection:
            return connection.execute(self._sql(sql, parameters), parameters).fetchall()

    def row(self, sql: str, parameters: Parameters | None = None) -> TupleRow | None:
        """Runs one statement and returns its first row, if any."""
        return next(iter(self.rows(sql, parameters)), None)

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

    def stream(self, sql: str, parameters: Parameters | None = None) -> Iterator[TupleRow]:
        """Runs one statement and yields its rows; read all rows before the next statement."""
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
        settings = {
            "idle_in_transaction_session_timeout": f"'{IDLE_LIMIT}s'",
            "synchronous_commit": "DEFAULT",
        }
        begin = f"BEGIN ISOLATION LEVEL {isolation};\n"
        connection = self._connect()
        try:
            self._set_up(connection, "LOCAL", settings, begin)
        except pg.IdleSessionTimeout:
            # No transaction was open, so nothing is lost.
            self._connection = None
            return self._begin(isolation)
        return connection

    def _set_up(
        self, connection: Connection, scope: str, settings: Mapping[str, str], begin: str = ""
    ) -> None:
        """Runs the statement `begin` and sets everything in one message. `scope`: SQL's word.

        Finds out Docora's schema, too, unless it is known.
        """
        if connection.info.server_version >= _HAS_TRANSACTION_TIMEOUT:
            settings = {"transaction_timeout": "0", **settings}
        settings = {
            **_ALWAYS,
            "statement_timeout": f"'{self._settings.statement_timeout}s'",
            "lock_timeout": f"'{self._lock_timeout:.1f}s'",
            **settings,
        }
        sql = begin + "".join(f"SET {scope} {name} TO {settings[name]};\n" for name in settings)
        if self.schema:
            connection.execute(sql.encode())
            return
        find = _FIND_SCHEMAS
        # A proxy may have dropped the options of DATABASE_URL.
        paths = re.findall(r"search_path=((?:\\.|\S)+)", self._parameters.get("options") or "")
        if paths:
            path = quote(re.sub(r"\\(.)", r"\1", paths[-1]))
            set_path = f"SELECT pg_catalog.set_config('search_path', {path}, true)"
            find = find.replace("SET LOCAL search_path TO DEFAULT", set_path)
        results = connection.execute((sql + find).encode()).results()
        *_, [(self.path,)], rows = (each.fetchall() for each in results if each.description)
        schemas = [schema for (schema,) in rows]
        # If no schema fits, the error of the next statement names the usual one.
        usual = [*self.path, *schemas, "public"][0]
        self.schema = next((schema for schema in self.path if schema in schemas), usual)

    def _roll_back(self) -> None:
        """Rolls back, or closes the connection if it is lost or busy."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:
            connection.execute(b"ROLLBACK")
        except psycopg.Error:
            self.close()

    def _connect(self) -> Connection:
        if self._connection is None:
            with self._errors():
                self._connection = self._open()
        return self._connection

    def _open(self) -> Connection:
        parameters: dict[str, Any] = (
            {
                "connect_timeout": self._settings.connect_timeout,
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
            secrets = [self._url, *map(self._parameters.get, ("password", "sslpassword"))]
            raise explain(
                error,
                f"Postgres database {self.target}",
                is_connected=self._connection is not None,
                statement_timeout=self._settings.statement_timeout,
                lock_timeout=self._lock_timeout,
                secrets=secrets,
            ) from error
        except UnicodeEncodeError as error:
            raise PostgresError(
                "a value is not valid Unicode and can't be sent to Postgres",
                hint="check the arguments for stray bytes",
            ) from error


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
