"""Sessions of Postgres: one for a worker's jobs, and whether a proxy lets us have one."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum

from docora_ops.database.postgres import Connection, Database
from docora_ops.errors import PoolingError, PostgresError
from docora_ops.settings import Settings

RELEASE_LOCKS = "SELECT pg_advisory_unlock_all()"

SESSIONS_FOR_WORKERS = (
    "point the workers' DATABASE_URL at Postgres itself, or at a proxy that pools sessions "
    "(in PgBouncer: pool_mode)"
)

_TRIES = 5
"""Other clients may take the session that would show the pooling, so one try is not enough."""


class Session(Database):
    """A session of the server, whose settings and locks last until it is closed, or released.

    Needs a direct connection, or a proxy that pools sessions. Statements outside of
    `transaction()` commit by themselves, without the round trips of a transaction.

    These commits need not wait for the disk: what a crash of Postgres loses, such as a delivery, is
    only done again. A `transaction()` waits, and writes the commits before it to disk, too.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._id = 0

    @property
    def id(self) -> int:
        """The server's id of the session in which its locks are taken."""
        self._connect()
        return self._id

    def release(self) -> None:
        """Releases the locks of the session, so that another job can use it."""
        self.execute(RELEASE_LOCKS)

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
            "default_transaction_read_only": "off",
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

    def _begin(self, isolation: str) -> Connection:
        connection = self._connect()
        connection.execute(
            f"BEGIN ISOLATION LEVEL {isolation}; SET LOCAL synchronous_commit TO DEFAULT".encode()
        )
        return connection


class Pooling(StrEnum):
    """Ways in which a proxy, if there is one, shares the sessions of Postgres among its clients.

    `UNDECIDED`: two connections could not be opened at once.
    """

    NONE = "none"
    SESSIONS = "sessions"
    TRANSACTIONS = "transactions"
    UNDECIDED = "undecided"


def find_pooling(settings: Settings) -> Pooling:
    """Finds out with two connections, within a few seconds.

    A proxy that pools transactions gives the session of the first connection to the second, or
    another session to the first. Raises PoolingError if the proxy pools statements.
    """
    hurried = settings.hurried(settings.connect_timeout)
    with closing(Database(hurried)) as first, closing(Database(hurried)) as second:
        try:
            before, told_before = _session_ids(first)
            for _ in range(_TRIES):
                with second.snapshot():
                    taken, _ = _session_ids(second)
                    if taken == before:
                        return Pooling.TRANSACTIONS
                    # With a shared session, a pool of one session would not answer.
                    now, told = _session_ids(first)
                # Postgres may have ended the first session because it was idle.
                if now != before and told == told_before:
                    return Pooling.TRANSACTIONS
                before, told_before = now, told
        except PoolingError:
            raise
        except PostgresError:
            return Pooling.UNDECIDED
    return Pooling.NONE if before == told_before else Pooling.SESSIONS


def _session_ids(database: Database) -> tuple[int, int]:
    """Returns the id of the session that serves the connection now, and the id told at login.

    A proxy tells an id of its own at login.
    """
    [(now,)] = database.rows("SELECT pg_backend_pid()")
    return int(now), database.id_told_at_login


def require_session(settings: Settings) -> None:
    """Raises PoolingError if a proxy pools transactions."""
    if find_pooling(settings) is Pooling.TRANSACTIONS:
        raise PoolingError(
            "DATABASE_URL leads to a proxy that pools transactions, and a worker needs sessions "
            "of Postgres to itself",
            hint=f"{SESSIONS_FOR_WORKERS}; all other commands work behind this proxy",
        )
