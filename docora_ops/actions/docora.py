"""One Docora: its settings, its database and its queue."""

from __future__ import annotations

import os
import pwd
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from docora_ops.errors import (
    ConfigurationError,
    PostgresError,
    UnclearBackendError,
    UsageError,
)
from docora_ops.jobs import Backend, BackendChoice, BackendSource, Hold
from docora_ops.operations import NO_OPTIONS, Change, ChangeOptions
from docora_ops.text import mask

if TYPE_CHECKING:
    from docora_ops.database import Database
    from docora_ops.queue import LinkQueue, Redis
    from docora_ops.settings import Settings

_LONGEST_VALUE = 1000  # characters of a value in an audit entry
_UNSET = 2**32 - 1  # the login uid of a process that has none
_PATIENCE = 2
"""Timeout in seconds of the statement that asks whether a link was ever scanned."""


class Docora:
    """One Docora, the first argument of every action.

    Connects to Postgres and Redis when first used. Actions add to `notices` what a person should
    read in addition to the result.

    confirm: the name of the target. Required by `require_confirmation` to change a protected
        target.
    """

    def __init__(self, settings: Settings, confirm: str | None = None) -> None:
        self.settings, self.confirm = settings, confirm
        self._prefix = f"{settings.target}: " if settings.target else ""
        self._noted_choice: BackendChoice | None = None  # as `renew` forgets the queue
        self.notices = [f"Warning: {text}" for text in settings.warnings]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to Postgres and Redis, if there are any."""
        if "database" in vars(self):
            self.database.close()
        if "redis" in vars(self):
            self.redis.close()

    def renew(self) -> None:
        """Closes the connections, and forgets what was read: the next use reads it again."""
        self.close()
        for name in ("database", "_opened_queue", "queue", "queue_to_read"):
            vars(self).pop(name, None)

    def require_confirmation(self) -> None:
        """Raises UsageError if the target is protected and `confirm` is not its name."""
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

    def describe_change(
        self,
        command: str,
        reason: str | None,
        options: ChangeOptions = NO_OPTIONS,
        /,
        **selection: object,
    ) -> Change:
        """Describes a change by the current user for an audit entry, without secrets.

        selection: other options of the command by name. None, False and empty lists are left out.
        """
        limit = options.max_failures
        selection |= {
            "front": options.front,
            "reset_circuit": options.reset_circuit,
            "in_flight": options.in_flight,
            "max_failures": limit and (str(limit) if limit.is_percent else limit.number),
            "update": options.update,
            "path": options.path,
            "now": options.now,
        }
        chosen = {
            name: _shown(value)
            for name, value in selection.items()
            if value is not None and value is not False and value != []
        }
        why = reason and mask(reason)[:_LONGEST_VALUE]
        return Change(current_user(), command, chosen, why, self.settings.target)

    @cached_property
    def _opened_queue(self) -> LinkQueue:
        """The queue of the configured backend; if none is configured, of the backend in use.

        Raises RedisError.
        """
        from docora_ops.queue.backend_choice import EMPTIED, choose_backend, read_signs
        from docora_ops.queue.redis_client import redis_errors

        client, signs = self.redis, None
        if self.settings.backend is not None:
            choice = BackendChoice(self.settings.backend, BackendSource.SETTING)
        else:
            with redis_errors(client):
                signs = read_signs(client)
            choice = choose_backend(signs)
            if choice.source is BackendSource.DEFAULT and self._links_were_scanned():
                choice = EMPTIED
            elif choice.is_clear and choice != self._noted_choice:
                self.note(choice.sentence)
                self._noted_choice = choice
        if choice.backend is Backend.BULLMQ:
            from docora_ops.queue.bullmq_queue import BullmqQueue

            return BullmqQueue(self.settings, client, choice, signs)
        from docora_ops.queue import RqQueue

        return RqQueue(self.settings, client, choice, signs)

    def _links_were_scanned(self) -> bool:
        """Tells whether a link was ever scanned; False if Postgres can't be asked."""
        from docora_ops.database import Database
        from docora_ops.database.link_reports import has_scanned_links

        try:
            with closing(Database(self.settings.hurried(_PATIENCE))) as database:
                return has_scanned_links(database)
        except (ConfigurationError, PostgresError):
            return False

    @cached_property
    def queue_to_read(self) -> LinkQueue:
        """The queue to read. Warns if the backend is unclear. Raises RedisError."""
        choice = self._opened_queue.choice
        if not choice.is_clear:
            self.warn(f"{choice.sentence}: only RQ's jobs are shown; {choice.to_set}")
        return self._opened_queue

    def read_holds(self) -> dict[str, Hold]:
        """Returns the holds in force, by app id; none with BullMQ, whose workers obey no hold.

        Raises RedisError.
        """
        from docora_ops.queue.holds import read_holds

        holds = read_holds(self.redis)
        return holds if holds and self.queue_to_read.can_push else {}

    @cached_property
    def queue(self) -> LinkQueue:
        """The queue to change. Raises UnclearBackendError, RedisError."""
        choice = self._opened_queue.choice
        if not choice.is_clear:
            raise UnclearBackendError(f"{choice.sentence}: nothing is changed", hint=choice.to_set)
        return self._opened_queue


def _shown(value: object) -> object:
    """Returns a value as an audit entry shows it: secrets are masked, long texts are cut."""
    if isinstance(value, list):
        return [_shown(part) for part in value]
    return mask(value)[:_LONGEST_VALUE] if isinstance(value, str) else value


def current_user() -> str:
    """Names the user as the kernel knows it: `kim@ops1`, or `kim as root@ops1` after sudo or su."""
    uids = [os.getuid()]
    with suppress(OSError, ValueError):  # another system than Linux
        login_uid = int(Path("/proc/self/loginuid").read_bytes())  # kept through sudo and su
        if login_uid not in {_UNSET, os.getuid()}:
            uids.insert(0, login_uid)
    users = []
    for uid in uids:
        try:
            users.append(pwd.getpwuid(uid).pw_name)
        except KeyError:
            users.append(str(uid))
    return f"{' as '.join(users)}@{os.uname().nodename}"
