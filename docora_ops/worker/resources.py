"""What the jobs of one process share: settings, connections and a limit of memory."""

import resource
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

_MOST_MEMORY = 2 << 30
"""Bytes for a job, and for each git that it starts."""
_CHUNKS = 4
"""Copies of a chunk that its delivery needs."""


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


def limit_memory(settings: Settings) -> None:
    """Limits the memory of this process and of each that it starts, where the system can.

    What a repository holds, or a server answers, may be endless.
    """
    limit = _MOST_MEMORY + _CHUNKS * settings.binary_chunk_size_bytes
    # Not RLIMIT_AS: git maps packs of any size, which take no memory of their own.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = [each for each in (soft, hard) if 0 <= each < limit]
    resource.setrlimit(resource.RLIMIT_DATA, (min(lower, default=limit), hard))


def memory_limit() -> str:
    """Returns the limit of this process in words."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return "no limit" if limit < 0 else f"limit {limit >> 20:,} MiB"
