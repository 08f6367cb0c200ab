"""Settings and connections that the jobs of one process share."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property

from docora_ops.database import Session
from docora_ops.errors import DocoraOpsError
from docora_ops.queue import Redis, connect
from docora_ops.queue.redis_client import redis_errors
from docora_ops.settings import Settings
from docora_ops.worker import redis_clock
from docora_ops.worker.webhook import Connections

LOCK_TIMEOUT = 60
"""Seconds to wait for a change of the link to commit, and for the link's lock."""
_STATEMENT_TIMEOUT = 300
"""Seconds, at least: the files of a large repository are listed in one statement."""


class Resources:
    """The settings, a client of Redis, and connections that one job leaves to the next.

    Without a client the process runs a single job, which connects and leaves nothing.
    """

    def __init__(self, settings: Settings, client: Redis | None = None) -> None:
        self.settings = settings
        self._given = client
        self._session: Session | None = None
        self.connections = Connections()
        """Connections to apps."""

    @cached_property
    def client(self) -> Redis:
        """The client of Redis."""
        return self._given or connect(self.settings)

    def measure_clock(self) -> None:
        """Asks Redis for the time: what apps are sent is signed by it. Raises RedisError."""
        with redis_errors(self.client):
            redis_clock.measure(self.client)

    def new_session(self) -> Session:
        """Returns a session that is not connected yet."""
        timeout = max(self.settings.statement_timeout, _STATEMENT_TIMEOUT)
        timeouts = {"lock_timeout": LOCK_TIMEOUT, "statement_timeout": timeout}
        return Session(self.settings.model_copy(update=timeouts))

    def take_session(self) -> Session | None:
        """Returns the session that the last job has left, if there is one."""
        session, self._session = self._session, None
        return session

    def leave_session(self, session: Session) -> bool:
        """Releases the locks of the session, and keeps it for the next job if one may follow.

        Returns False if the session has to be closed.
        """
        if self._given is not None:
            with suppress(DocoraOpsError):  # the link is in sync already
                session.release()
                self._session = session
        return self._session is session
