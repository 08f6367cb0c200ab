"""One Docora: its settings, its database and its queue."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from docora_ops.audit import Change, describe_change
from docora_ops.bulk import NO_OPTIONS, ChangeOptions
from docora_ops.errors import (
    ConfigurationError,
    PostgresError,
    UnclearBackendError,
    UsageError,
)
from docora_ops.jobs import ADVICE, Advice, Backend, BackendChoice, BackendSource

if TYPE_CHECKING:
    from docora_ops.database import Database
    from docora_ops.queue import LinkQueue, ProgressStore, Redis
    from docora_ops.settings import Settings

_EMPTY = (
    "Redis holds no key of either queue, though links were scanned "
    "(it may have been emptied, or be another Redis)"
)
_PATIENCE = 2
"""Seconds for one statement: `status` and `doctor` wait for it before they ask Redis."""


@dataclass(eq=False)
class Docora:
    """One Docora, the first argument of every action.

    Connects to Postgres and Redis when first used. Actions add to `notices` what a person should
    read beside the result.

    confirm: the name of the target; without it, a protected target refuses mass changes.
    """

    settings: Settings
    confirm: str | None = None
    notices: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for warning in self.settings.warnings:
            self.warn(warning)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection to Postgres, if there is one."""
        if "database" in self.__dict__:
            self.database.close()

    def disconnect(self) -> None:
        """Closes the connection to Postgres before a fork; the next use connects again.

        The client of Redis notices by itself that it is in another process.
        """
        self.database.disconnect()

    def renew(self) -> None:
        """Closes the connection, and forgets what was read: the next use looks anew."""
        self.close()
        for name, attribute in vars(type(self)).items():
            if isinstance(attribute, cached_property):
                vars(self).pop(name, None)

    def require_confirmation(self) -> None:
        """Raises UsageError if the target is protected, and `confirm` is not its name."""
        settings = self.settings
        if settings.protected and settings.target is None:
            raise UsageError(
                "DOCORA_OPS_PROTECTED is set, but there is no target whose name could be typed",
                hint="make the env file a target: docora-ops help targets",
            )
        if settings.protected and self.confirm != settings.target:
            raise UsageError(
                f"the target {settings.target} is protected, and its name was not given",
                hint=f"pass confirm={settings.target!r} to Docora",
            )

    def note(self, text: str) -> None:
        """Adds a notice."""
        self.notices.append(text)

    def warn(self, text: str) -> None:
        """Adds a notice that is a warning."""
        self.notices.append(f"Warning: {text}")

    @cached_property
    def database(self) -> Database:
        """Docora's database. Raises ConfigurationError."""
        from docora_ops.database import Database

        return Database(self.settings)

    @cached_property
    def redis(self) -> Redis:
        """The client of Redis. Raises ConfigurationError."""
        from docora_ops.queue import connect
        from docora_ops.queue.redis_client import describe

        client = connect(self.settings)
        if "redis_url" not in self.settings.model_fields_set:
            self.note(f"REDIS_URL is not set: using Redis at {describe(client)}")
        return client

    @property
    def postgres_server(self) -> str:
        """Names the target, Postgres and its database, without secrets."""
        return f"{self._prefix}{self.database.place}"

    @property
    def redis_server(self) -> str:
        """Names the target, Redis and its database, without secrets."""
        from docora_ops.queue.redis_client import describe

        return f"{self._prefix}Redis {describe(self.redis)}"

    @property
    def servers(self) -> str:
        """Names the target, both servers and their databases, without secrets."""
        from docora_ops.queue.redis_client import describe

        return f"{self.postgres_server}, Redis {describe(self.redis)}"

    @property
    def _prefix(self) -> str:
        return f"{self.settings.target}: " if self.settings.target else ""

    def describe_change(
        self,
        command: str,
        reason: str | None,
        options: ChangeOptions = NO_OPTIONS,
        /,
        **selection: object,
    ) -> Change:
        """Describes a change by the current user for an audit entry, with the target."""
        change = describe_change(command, reason, options, **selection)
        return replace(change, target=self.settings.target)

    @cached_property
    def backend(self) -> BackendChoice:
        """The backend that is configured or in use, and why. Raises RedisError."""
        from docora_ops.queue.backend import START, choose_backend

        choice = choose_backend(self.settings, self.redis)
        # If links were scanned before, a Redis without keys of either queue proves nothing.
        if choice.source is BackendSource.DEFAULT and self._links_were_scanned():
            advice = f"check REDIS_URL; {START}"
            return BackendChoice(Backend.RQ, BackendSource.UNCLEAR, _EMPTY, advice)
        if choice.is_clear and choice.why:
            self.note(choice.sentence)
        return choice

    def _links_were_scanned(self) -> bool:
        """Tells whether a link was ever scanned; False if Postgres can't be asked."""
        from docora_ops.database import Database
        from docora_ops.database.link_reports import has_scanned_links

        try:
            with closing(Database(self.settings.hurried(_PATIENCE))) as database:
                return has_scanned_links(database)
        except (ConfigurationError, PostgresError):
            return False

    @property
    def advice(self) -> Advice:
        """The sentences about the backend."""
        return ADVICE[self.backend.backend]

    @cached_property
    def queue_to_read(self) -> LinkQueue:
        """The queue to read. Warns if the backend is unclear. Raises RedisError."""
        from docora_ops.queue import RqQueue

        choice = self.backend
        if not choice.is_clear:
            self.warn(f"{choice.sentence}: only RQ's jobs are shown; {choice.to_set}")
        if choice.backend is Backend.BULLMQ:
            from docora_ops.queue.bullmq import BullmqQueue

            return BullmqQueue(self.settings, self.redis, choice)
        return RqQueue(self.settings, self.redis, choice)

    @cached_property
    def queue(self) -> LinkQueue:
        """The queue to change. Raises UnclearBackendError, RedisError."""
        if not self.backend.is_clear:
            raise UnclearBackendError(
                f"{self.backend.sentence}: nothing is changed", hint=self.backend.to_set
            )
        return self.queue_to_read

    @cached_property
    def store(self) -> ProgressStore:
        """The stored progress of bulk operations."""
        from docora_ops.queue import ProgressStore

        return ProgressStore(self.redis)
