"""Connects to Postgres, and runs SQL.

A pooling proxy may run each transaction in another session, shared with other programs. Therefore
no setting, cursor, prepared statement or lock of a `Database` outlives a transaction, and each
transaction overrides the settings that another program has left.

SQL names Docora's tables `docora.TABLE`, regardless of the name of their schema in this database.
"""

import logging
import re
import select
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from itertools import product
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.abc import Buffer, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.sql import quote
from psycopg.types.datetime import TimestamptzLoader

from docora_ops.errors import (
    ConfigurationError,
    ConflictError,
    LinkError,
    LinkLockedError,
    PoolingError,
    PostgresDeniedError,
    PostgresError,
    StatementTimeoutError,
)
from docora_ops.settings import Settings
from docora_ops.text import mask

# Keeps psycopg's log off stderr: it may hold secrets, and what it says is also raised, except for
# failed rollbacks.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

IDLE_LIMIT = 10  # seconds in a transaction: longer than a call to Redis while rows are locked
REPLY_GRACE = 5  # seconds after the statement timeout until a silent server counts as lost
_ROWS_AT_ONCE = 1000
_SSL_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
_HAS_TRANSACTION_TIMEOUT = 170_000  # Postgres 17 and newer

# The search path has only `pg_catalog`: with another schema in it, a function or an operator of
# that schema would run as our role wherever it fits the types of a call better.
_SET_UP = """
SET LOCAL session_authorization TO DEFAULT;
SET LOCAL role TO DEFAULT;
SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL datestyle TO ISO;
SET LOCAL timezone TO UTC;
SET LOCAL statement_timeout TO '{statement}s';
SET LOCAL lock_timeout TO '{lock:.1f}s';
SET LOCAL idle_in_transaction_session_timeout TO '{idle}s';
SET LOCAL synchronous_commit TO DEFAULT;
"""

# Uses the search path of the role, the database or DATABASE_URL, not of another client of a pool.
_FIND_SCHEMA = """
{set_path};
SELECT pg_catalog.current_schemas(false);
SET LOCAL search_path TO pg_catalog, pg_temp;
SELECT nspname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relname = 'app_repositories' AND relkind IN ('r', 'p', 'v', 'm', 'f')
    AND relpersistence <> 't';
{is_read_only};
SELECT pg_backend_pid();
COMMIT
"""

# Only what an administrator has set for the server, the database or the role counts. The value in
# force may be that of another client of a pool. A session of a pool may also be older than the
# settings of its database and role, which are therefore read from the catalog.
_IS_READ_ONLY = """
SELECT coalesce((
    SELECT split_part(setting, '=', 2) FROM pg_db_role_setting, unnest(setconfig) AS setting
    WHERE starts_with(setting, 'default_transaction_read_only=')
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
    ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1
), (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'))::boolean
"""

# The session of a job may be idle for hours. Its commits need not wait for the disk: if a crash of
# Postgres loses one, such as a delivery, the job repeats that step.
_SET_UP_SESSION = """
SET idle_in_transaction_session_timeout TO '{reply_timeout}s';
SET idle_session_timeout TO 0;
SET tcp_keepalives_idle TO 10;
SET tcp_keepalives_interval TO 5;
SET tcp_keepalives_count TO 3;
SET tcp_user_timeout TO '{reply_timeout}s';
SET default_transaction_isolation TO 'read committed';
SET default_transaction_read_only TO off;
SET synchronous_commit TO off;
"""

_WAIT_FOR_DISK = b"SET LOCAL synchronous_commit TO DEFAULT"

# The driver passes on no SQLSTATE of a refused login, and that of PgBouncer is not specific.
_REFUSED_LOGIN = re.compile(
    "(password|authentication) .*failed|no pg_hba.conf entry|not permitted to log in"
    '|role ".*" does not exist|denied for database'
)

_TO_FAIL_OVER = (
    "check that the primary runs; if a standby takes over, try again once it is promoted"
)
# What libpq and Postgres say if a server takes no writes.
_READ_ONLY = re.compile(
    "read-only transaction|session is read-only|during recovery|is in hot standby"
)

Parameters = Mapping[str, object]
RV = TypeVar("RV")


class Connection(psycopg.Connection[TupleRow]):
    """A connection that gives up on a server that does not answer."""

    reply_timeout: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Waits for the server, by default `reply_timeout` seconds. Raises ConnectionTimeout."""
        if timeout is None:
            timeout = self.reply_timeout
        end = None if timeout is None else time.monotonic() + timeout
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if end is None or time.monotonic() < end:
                raise
            self.close()
            raise pg.ConnectionTimeout from error


class _MomentLoader(TimestamptzLoader):
    """Loads a time beyond Python's range, such as `infinity`, as the first or last in the range.

    Otherwise, one row with such a time would make a whole list unreadable.
    """

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            is_past = bytes(data).startswith(b"-") or bytes(data).endswith(b"BC")
            year = datetime.min if is_past else datetime.max  # noqa: DTZ901
            return year.replace(tzinfo=UTC)


class Database:
    """One connection to Docora's database, made when first used. All calls raise PostgresError.

    A statement outside of `transaction()` runs in its own transaction.
    """

    _needs_transactions = True

    def __init__(self, settings: Settings) -> None:
        url = settings.require_database_url().get_secret_value()
        try:
            conninfo: dict[str, Any] = conninfo_to_dict(url)
            # libpq would refuse these only when it connects.
            self._servers = _servers(conninfo)
            ports = (server.get("port") or 5432 for _, server in self._servers)
            if conninfo.get("sslmode", "prefer") not in _SSL_MODES or not all(
                int(port) in range(1, 65_536) for port in ports
            ):
                raise ValueError
        except (psycopg.Error, ValueError):
            # The driver's text would show the password.
            raise ConfigurationError(
                "DATABASE_URL is not a URL that Postgres understands",
                hint="use postgres://USER:PASSWORD@HOST:PORT/DATABASE; percent-encode special "
                "characters in the password, and leave out options that are not Postgres's own",
            ) from None
        if "service" in conninfo:
            raise ConfigurationError(
                "DATABASE_URL names a service, whose server no screen could name",
                hint="write the host and the database of the service into DATABASE_URL",
            )
        self._name = str(conninfo.get("dbname") or conninfo.get("user") or "postgres")
        hosts = ", ".join(name for name, _ in self._servers)
        self.server = f"{self._name} on {hosts}"  # only the one in use, once it is known
        self.place = self.server  # with the schema, once it is known
        self.schema = ""  # of Docora's tables, once it is known
        self.is_read_only = False  # set by an administrator, once it is known
        self.has_proxy = False  # between us and the server, once it is known
        self._session = 0  # the process id of our backend, also behind a proxy, once it is known
        self._secrets = [url, conninfo.get("password"), conninfo.get("sslpassword")]
        self._statement_timeout = settings.statement_timeout
        # Shorter than the statement timeout, whose error does not mention the lock.
        self._lock_timeout = min(float(settings.lock_timeout), settings.statement_timeout * 0.9)
        self._reply_timeout = settings.statement_timeout + REPLY_GRACE
        # libpq's own variables and services must not lead to a server that no screen names.
        places = {"host": "", "hostaddr": "", "port": "", "dbname": self._name, "options": ""}
        self._parameters: dict[str, Any] = (
            places
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
        self._connection: Connection | None = None
        self._begin = ""  # settings of each transaction
        self._in_transaction = False

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

    def disconnect(self) -> None:
        """Closes the connection; the next use makes a new one."""
        self.close()
        self._connection = None

    @contextmanager
    def transaction(self, isolation: str = "READ COMMITTED READ WRITE") -> Iterator[None]:
        """Commits at the end of the block, or rolls back on an exception.

        With READ WRITE, raises PostgresError on a standby, or if an administrator allows no
        changes.
        """
        assert not self._in_transaction  # noqa: S101 - or the inner would commit the outer
        with self._connected() as first:
            connection = first
            if isolation.endswith("READ WRITE"):
                self.require_changes()
            self._in_transaction = True
            try:
                begin = f"BEGIN ISOLATION LEVEL {isolation};{self._begin}".encode()
                try:
                    connection.execute(begin)
                except pg.IdleSessionTimeout:  # before a transaction was open: nothing is lost
                    self._connection = connection = self._connect()
                    connection.execute(begin)
                yield
            except BaseException:
                try:
                    connection.execute(b"ROLLBACK")
                except psycopg.Error:  # it is lost or busy
                    self.close()
                raise
            else:
                connection.execute(b"COMMIT")
            finally:
                self._in_transaction = False

    def require_changes(self) -> None:
        """Raises PostgresError if an administrator allows no changes."""
        with self._connected() as connection:
            if self.is_read_only:
                raise PostgresError(
                    f"Postgres database {self.server} allows no changes: "
                    "default_transaction_read_only is on",
                    hint="ask who has set it: for the server, the database, the role "
                    f"{connection.info.user}, or in DATABASE_URL",
                )

    def consistent_reads(self) -> AbstractContextManager[None]:
        """Begins a transaction whose statements all see the same state of the database.

        Within another transaction, does nothing.
        """
        return nullcontext() if self._in_transaction else self.transaction("REPEATABLE READ")

    def rows(self, sql: str, parameters: Parameters | None = None) -> Sequence[TupleRow]:
        """Runs one statement and returns its rows."""
        with self._statement(sql) as (cursor, query):
            return cursor.execute(query, parameters or {}).fetchall()

    def execute(self, sql: str, parameters: Parameters | None = None) -> int:
        """Runs one statement and returns the number of affected rows."""
        with self._statement(sql) as (cursor, query):
            return cursor.execute(query, parameters or {}).rowcount

    def stream(self, sql: str, parameters: Parameters | None = None) -> Iterator[TupleRow]:
        """Runs one statement and yields its rows. Read all rows before the next statement."""
        with self._statement(sql) as (cursor, query):
            yield from cursor.stream(query, parameters or {}, size=_ROWS_AT_ONCE)

    def copy(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Runs `COPY … FROM STDIN` with these rows."""
        with self._statement(sql) as (cursor, query), cursor.copy(query % ()) as copy:
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def _statement(self, sql: str) -> Iterator[tuple[psycopg.Cursor[TupleRow], bytes]]:
        """Yields a cursor, and the SQL with the actual name of Docora's schema."""
        is_begun = self._in_transaction or not self._needs_transactions
        begun = nullcontext() if is_begun else self.transaction("READ COMMITTED")
        with begun, self._connected() as connection, connection.cursor() as cursor:
            yield cursor, self._in_schema(sql)

    def _in_schema(self, sql: str) -> bytes:
        schema = self.schema.replace('"', '""').replace("%", "%%")
        return sql.replace("docora.", f'"{schema}".').encode()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Yields the connection. Raises PostgresError for errors of the driver."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except psycopg.Error as error:
            raise self._explain(error) from error
        except UnicodeError as error:
            raise PostgresError(
                f"a value can't be sent to Postgres database {self.server}: {error}",
                hint="check the arguments for stray bytes, and the host in DATABASE_URL",
            ) from error

    def _explain(self, error: psycopg.Error, server: str = "") -> PostgresError:
        """Translates an error of the driver to one of ours, with a hint and without secrets.

        server: the server that the message names; empty to name the database instead.
        """
        where = server or f"Postgres database {self.server}"
        kind: type[PostgresError] = PostgresError
        text = error.diag.message_primary or str(error).strip() or type(error).__name__
        # The driver lists each address that it tried, with hints on further lines.
        reasons = re.findall(r".*failed: (?:FATAL: +)?(.+)", text)
        text = mask(reasons[-1] if reasons else text.splitlines()[0], self._secrets)
        match error:
            case pg.LockNotAvailable():
                held = f"another session has held a lock for over {self._lock_timeout:g} s"
                hint = "try again; pg_stat_activity in the database shows who it is"
                return LinkLockedError(held, hint=hint)
            case pg.ConnectionTimeout():
                problem, hint = "did not answer in time", "check its load and the network"
            case pg.QueryCanceled():
                kind = StatementTimeoutError
                problem = f"did not finish a statement within {self._statement_timeout} s"
                hint = "check its load, or raise DOCORA_OPS_STATEMENT_TIMEOUT"
            case pg.UndefinedTable() | pg.UndefinedColumn():
                problem = f"is not a Docora database: {text}"
                hint = "point DATABASE_URL at the database that Docora uses, and let the role "
                hint += "use its schema: docora-ops help privileges"
            case pg.InsufficientPrivilege():
                kind, problem = PostgresDeniedError, f"refuses: {text}"
                hint = "docora-ops help privileges lists what the role in DATABASE_URL needs"
            case (
                pg.ReadOnlySqlTransaction() | pg.FeatureNotSupported() | psycopg.OperationalError()
            ) if _READ_ONLY.search(text):
                problem = "is read-only"
                hint = "point DATABASE_URL at the primary; if this is a standby that takes over, "
                hint += "try again once it is promoted"
                if len(self._servers) > 1 and "target_session_attrs" not in self._parameters:
                    hint = "add target_session_attrs=read-write to DATABASE_URL"
            case pg.DeadlockDetected() | pg.SerializationFailure():
                kind, problem = ConflictError, f"broke off for another session: {text}"
                hint = "try again"
            case psycopg.DatabaseError() if not isinstance(
                error, psycopg.OperationalError | pg.IdleInTransactionSessionTimeout
            ):
                kind, problem, hint = LinkError, f"refuses: {text}", "see the server's log"
            case _ if "statement pooling" in text:
                kind = PoolingError
                problem = "is behind a proxy that pools statements: docora-ops needs transactions"
                hint = "have the proxy pool transactions or sessions (in PgBouncer: pool_mode)"
            case _ if _REFUSED_LOGIN.search(text):
                kind, problem = PostgresDeniedError, f"refuses our login: {text}"
                hint = "check the role and the password in DATABASE_URL, and pg_hba.conf"
            case _:
                how = "used" if self._connection or "FATAL" in str(error) else "reached"
                if how == "reached" and text[1:2].islower():  # not an abbreviation, such as SSL
                    text = text[0].lower() + text[1:]
                problem, hint = f"can't be {how}: {text}", "check that it runs, and DATABASE_URL"
                if len(self._servers) > 1:
                    hint = _TO_FAIL_OVER
                if re.search("certificate|private key|SSL", text):
                    hint = "check sslmode, sslcert, sslkey and sslrootcert in DATABASE_URL"
        return kind(f"{where} {problem}", hint=hint)

    def _open(self) -> Connection:
        """Connects to the first server in DATABASE_URL that accepts the connection."""
        wanted = self._parameters.get("target_session_attrs", "any")
        # libpq is told of one server at a time, so it can't prefer a standby itself.
        rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
        by_server: dict[str, PostgresError] = {}
        for accepted, (name, server) in product(rounds, self._servers):
            if name in by_server and "not in hot standby mode" not in by_server[name].message:
                continue  # it has just failed, and may take as long to fail again
            options = self._parameters | server | {"target_session_attrs": accepted}
            try:
                # A prepared statement may be unknown in the next session of a pooling proxy.
                connection = Connection.connect(**options, autocommit=True, prepare_threshold=None)
            except psycopg.Error as error:
                if len(rounds) == len(self._servers) == 1:
                    raise
                by_server[name] = self._explain(error, name)
            else:
                self.server = f"{self._name} on {name}"
                return connection
        refusals = list(by_server.values())
        reasons = "; ".join(error.message for error in refusals)
        # A failover does not help against a refused login, for example.
        worst = [error for error in refusals if type(error) is not PostgresError] or refusals
        hints = {error.hint for error in worst}
        raise type(worst[0])(
            f"Postgres database {self._name} has no usable server: {reasons}",
            hint=hints.pop() if len(hints) == 1 else _TO_FAIL_OVER,
        )

    def _connect(self) -> Connection:
        """Connects, and finds Docora's schema."""
        connection = self._open()
        connection.reply_timeout = self._reply_timeout
        connection.adapters.register_loader("timestamptz", _MomentLoader)
        self._begin = _SET_UP.format(
            statement=self._statement_timeout, lock=self._lock_timeout, idle=IDLE_LIMIT
        )
        if connection.info.server_version >= _HAS_TRANSACTION_TIMEOUT:
            self._begin += "SET LOCAL transaction_timeout TO 0;"
        set_path = "SET LOCAL search_path TO DEFAULT"
        # A proxy may have dropped the options of DATABASE_URL.
        paths = re.findall(r"search_path=((?:\\.|\S)+)", self._parameters.get("options") or "")
        if paths:
            path = quote(re.sub(r"\\(.)", r"\1", paths[-1]))
            set_path = f"SELECT pg_catalog.set_config('search_path', {path}, true)"
        find_schema = _FIND_SCHEMA.format(set_path=set_path, is_read_only=_IS_READ_ONLY)
        find = f"BEGIN;{self._begin}{find_schema}"
        try:
            results = connection.execute(find.encode()).results()
        except BaseException:
            connection.close()
            raise
        answers = (result.fetchall() for result in results if result.description)
        *_, [(on_path,)], rows, [(self.is_read_only,)], [(self._session,)] = answers
        # A proxy gives an id of its own.
        self.has_proxy = self._session != connection.info.backend_pid
        schemas = [schema for (schema,) in rows]
        # If no schema fits, the error of the next statement names the usual one.
        usual = [*on_path, *schemas, "public"][0]
        self.schema = next((schema for schema in on_path if schema in schemas), usual)
        self.place = f"{self.server} (schema {self.schema})"
        return connection


def _servers(conninfo: Mapping[str, object]) -> list[tuple[str, dict[str, str]]]:
    """Returns the name of each server in DATABASE_URL, with its host and port.

    A name includes the port if there are several servers and the port is not 5432. Raises
    ValueError if hosts and ports differ in number.
    """
    names = [name for name in ("host", "hostaddr", "port") if conninfo.get(name)]
    lists = [str(conninfo[name]).split(",") for name in names]
    count = max(map(len, lists), default=1)
    lists = [values * count if len(values) == 1 else values for values in lists]
    servers = [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)] or [{}]
    named = []
    for server in servers:
        host, port = server.get("host") or server.get("hostaddr"), server.get("port") or "5432"
        is_usual = len(servers) == 1 or port == "5432"
        named.append(((host or "localhost") + ("" if is_usual else f":{port}"), server))
    return named


class Session(Database):
    """A session of the server, whose settings and locks outlive a transaction.

    Needs a direct connection, or a proxy that pools sessions. A statement outside of
    `transaction()` commits by itself, without waiting for the disk. A `transaction()` waits for the
    disk, and thereby for all earlier commits.
    """

    _needs_transactions = False

    @property
    def id(self) -> int:
        """Returns the process id of the session's backend, also behind a proxy."""
        with self._connected():
            return self._session

    @property
    def is_open(self) -> bool:
        """Tells whether the session is connected, without asking the server."""
        if self._connection is None or self._connection.closed:
            return False
        # The server sends nothing to an idle session, except when it ends the session.
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    def pipeline(
        self, statements: Sequence[str], parameters: Parameters, *, waits_for_disk: bool = False
    ) -> list[Sequence[TupleRow]]:
        """Runs statements in one transaction and one round trip; returns the rows of each.

        All statements take effect, or none. The first call after a `stream` needs `waits_for_disk`.

        waits_for_disk: return only when the commit is on disk.
        """
        self.require_changes()
        with self._connected() as connection:
            # A pipeline with one Sync at its end is a transaction, and every proxy passes it on.
            with connection.pipeline():
                # After a `stream`, libpq also returns the rows of the next statement in chunks,
                # which psycopg does not expect: that statement must have no rows.
                if waits_for_disk:
                    connection.execute(b"BEGIN")
                    connection.execute(_WAIT_FOR_DISK)
                cursors = [
                    connection.execute(self._in_schema(sql), parameters) for sql in statements
                ]
                if waits_for_disk:
                    connection.execute(b"COMMIT")
            return [cursor.fetchall() for cursor in cursors]

    def release(self) -> None:
        """Releases the session's locks, so that another job can use the session."""
        self.execute("SELECT pg_advisory_unlock_all()")

    def _connect(self) -> Connection:
        connection = super()._connect()
        connection.prepare_threshold = 1  # the same statements run for each job
        set_up = self._begin.replace("LOCAL", "SESSION")
        set_up += _SET_UP_SESSION.format(reply_timeout=self._reply_timeout)
        connection.execute(set_up.encode())
        self._begin = _WAIT_FOR_DISK.decode()
        return connection
