"""One Docora: its settings, its database and its queue."""

from __future__ import annotations

import os
import pwd
import socket
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Self

from docora_ops.errors import WrongPairError
from docora_ops.links import ids_of_job
from docora_ops.text import amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from docora_ops.database.connection import Database
    from docora_ops.queue.backend import LinkQueue
    from docora_ops.settings import Settings

SAMPLE = 100
"""The number of jobs that are looked up to tell whether Redis belongs to the database."""


class Docora:
    """One Docora, the first argument of every action. Connects when first used.

    Actions add to `notices` what a person should read in addition to the result.

    command: the command line, without secrets, for the record of operations.
    """

    def __init__(self, settings: Settings, command: str = "") -> None:
        self.settings = settings
        self.command = command
        self.notices: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to Postgres and Redis, if there are any."""
        for name in ("database", "redis"):
            if name in vars(self):
                getattr(self, name).close()

    @cached_property
    def database(self) -> Database:
        """Returns the connection to Postgres. Raises ConfigurationError."""
        from docora_ops.database.connection import Database

        return Database(self.settings)

    @cached_property
    def redis(self) -> Redis:
        """Returns the client for Redis. Raises ConfigurationError."""
        from docora_ops.queue.connection import connect

        return connect(self.settings)

    @cached_property
    def queue(self) -> LinkQueue:
        """Returns the queue of Docora's workers. Raises RedisError, UnclearBackendError."""
        from docora_ops.queue.backend import choose_queue

        return choose_queue(self.settings, self.redis)

    @contextmanager
    def twin(self) -> Iterator[Docora]:
        """Yields a Docora with a connection to Postgres of its own, for a second thread."""
        from docora_ops.database.connection import Database

        twin = copy(self)
        twin.queue, twin.database = self.queue, Database(self.settings)
        try:
            yield twin
        finally:
            twin.database.close()

    @property
    def servers(self) -> str:
        """Names both servers, without users and passwords."""
        from docora_ops.queue.connection import describe

        return f"{self.database.server}, Redis {describe(self.redis)}"

    @property
    def user(self) -> str:
        """Returns who runs the command, as `user@host`."""
        try:
            name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container may run under any number
            name = f"uid {os.getuid()}"
        return f"{name}@{socket.gethostname()}"

    def require_pair(self) -> None:
        """Raises WrongPairError if the queue seems to belong to another database.

        Looks for up to 100 jobs of the queue in the database. An empty queue can't tell, so it
        passes.
        """
        if count := self.unknown_jobs():
            raise WrongPairError(
                f"this Redis seems to belong to another database: none of {amount(count, 'job')} "
                f"looked up has a link in {self.database.server}. Nothing was changed",
                hint="check DATABASE_URL and REDIS_URL; if both are right, the links of these jobs "
                "were deleted: see docora-ops help troubleshooting",
            )

    def unknown_jobs(self) -> int:
        """Returns the number of sampled jobs if the database knows none; 0 if it knows one."""
        from docora_ops.database.links import any_linked

        job_ids = [job_id for job_id in self.queue.sample(SAMPLE) if ids_of_job(job_id)]
        return 0 if not job_ids or any_linked(self.database, job_ids) else len(job_ids)
