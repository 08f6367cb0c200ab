"""Finding out whether a proxy in front of Postgres pools transactions."""

from __future__ import annotations

from contextlib import closing
from enum import StrEnum

from docora_ops.database.postgres import Database
from docora_ops.errors import PoolingError, PostgresError
from docora_ops.settings import Settings

SESSIONS_FOR_WORKERS = (
    "point the workers' DATABASE_URL at Postgres itself, or at a proxy that pools sessions "
    "(in PgBouncer: pool_mode)"
)

_TRIES = 5
"""Other clients may take the session that would show the pooling, so one try is not enough."""


class Pooling(StrEnum):
    """Ways in which a proxy, if there is one, shares the sessions of Postgres among its clients.

    `UNDECIDED`: two connections could not be opened at once.
    """

    NONE = "none"
    SESSIONS = "sessions"
    TRANSACTIONS = "transactions"
    UNDECIDED = "undecided"


def session_id(database: Database) -> int:
    """Returns the id of the session that serves this connection now."""
    # The id that the driver knows may be that of a proxy.
    row = database.row("SELECT pg_backend_pid()")
    return int(row[0]) if row else 0


def find_pooling(settings: Settings) -> Pooling:
    """Finds out with two connections, within a few seconds.

    A proxy that pools transactions gives the session of the first connection to the second, or
    another session to the first. Raises PoolingError if the proxy pools statements.
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
                        # With a shared session, a pool of one session would not answer.
                        seen.add(session_id(first))
                # Postgres may have ended the first session because it was idle.
                is_new_connection = first.session_id_of_driver != as_told
                if is_shared or (len(seen) > 1 and not is_new_connection):
                    return Pooling.TRANSACTIONS
        except PoolingError:
            raise
        except PostgresError:
            return Pooling.UNDECIDED
    return Pooling.NONE if is_direct else Pooling.SESSIONS


def require_session(settings: Settings) -> None:
    """Raises PoolingError if a proxy pools transactions."""
    if find_pooling(settings) is Pooling.TRANSACTIONS:
        raise PoolingError(
            "DATABASE_URL leads to a proxy that pools transactions, and a worker needs sessions "
            "of Postgres to itself",
            hint=f"{SESSIONS_FOR_WORKERS}; all other commands work behind this proxy",
        )
