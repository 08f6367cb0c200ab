"""Telling what a proxy in front of Postgres pools."""

from __future__ import annotations

from contextlib import closing
from enum import StrEnum

from docora_ops.database.postgres import Database
from docora_ops.errors import PoolingError, PostgresError
from docora_ops.settings import Settings

# Not the driver's word for the session: behind a proxy that is the proxy's own.
SESSION_ID = "SELECT pg_backend_pid()"

SESSIONS_FOR_WORKERS = (
    "point the workers' DATABASE_URL at Postgres itself, or at a proxy that pools sessions "
    "(in PgBouncer: pool_mode)"
)

_TRIES = 5
"""Other clients of the pool may take, at each try, the session that would have given it away."""


class Pooling(StrEnum):
    """What a proxy before Postgres, if there is one, gives to each client."""

    NONE = "none"
    """No proxy: each connection is a session of Postgres."""
    SESSIONS = "sessions"
    """One session for as long as the connection lasts."""
    TRANSACTIONS = "transactions"
    """Another session for each transaction."""
    UNDECIDED = "undecided"
    """Two connections could not be opened at once."""


def session_id(database: Database) -> int:
    """Which session of Postgres serves this connection at this moment."""
    row = database.row(SESSION_ID)
    return int(row[0]) if row else 0


def find_pooling(settings: Settings) -> Pooling:
    """Find out by two connections, neither of which waits much longer than for connecting.

    Behind a proxy that pools transactions, the session of the first is given to the second, or
    the first gets another one. Raises PoolingError where single statements are pooled.
    """
    hurried = settings.model_copy(update={"statement_timeout": settings.connect_timeout})
    with closing(Database(hurried)) as first, closing(Database(hurried)) as second:
        try:
            seen = {session_id(first)}
            as_told = first.session_id_of_driver
            is_direct = seen == {as_told}
            for _ in range(_TRIES):
                seen.add(session_id(first))
                with second.transaction():
                    is_shared = session_id(second) in seen
                    if not is_shared:
                        # Were it shared, a pool of one session would not answer this.
                        seen.add(session_id(first))
                # Postgres may have ended the first session since it was idle.
                is_new_connection = first.session_id_of_driver != as_told
                if is_shared or (len(seen) > 1 and not is_new_connection):
                    return Pooling.TRANSACTIONS
        except PoolingError:
            raise
        except PostgresError:
            return Pooling.UNDECIDED
    return Pooling.NONE if is_direct else Pooling.SESSIONS


def require_session(settings: Settings) -> None:
    """Raise PoolingError where a connection is known not to keep its session."""
    if find_pooling(settings) is Pooling.TRANSACTIONS:
        raise PoolingError(
            "DATABASE_URL leads to a proxy that pools transactions, and a worker needs sessions "
            "of Postgres to itself",
            hint=f"{SESSIONS_FOR_WORKERS}; all other commands work behind this proxy",
        )
