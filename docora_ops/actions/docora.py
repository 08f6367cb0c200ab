"""One Docora: its settings, its database and its queue, and which workers take the jobs."""

from __future__ import annotations

import os
import pwd
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from docora_ops.errors import (
    ConfigurationError,
    NeedsRqError,
    PostgresError,
    UnclearBackendError,
    WrongBackendError,
)
from docora_ops.jobs import Backend, BackendChoice, BackendSource, Hold, OtherQueue
from docora_ops.operations import NO_OPTIONS, Change, ChangeOptions
from docora_ops.text import duration, inert, mask

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._noted_choice: BackendChoice | None = None  # as `renew` forgets the queue
        self.notices = list[str]()

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
        """Names Postgres and its database, without secrets."""
        return self.database.place

    @property
    def redis_server(self) -> str:
        """Names Redis and its database, without secrets."""
        from docora_ops.queue.redis_client import describe

        return f"Redis {describe(self.redis)}"

    @property
    def servers(self) -> str:
        """Names both servers and their databases, without secrets."""
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
        return Change(current_user(), command, chosen, why)

    @cached_property
    def _opened_queue(self) -> LinkQueue:
        """The queue of the configured backend; if none is configured, of the backend in use.

        Raises RedisError.
        """
        from docora_ops.queue.redis_client import redis_errors
        from docora_ops.queue.redis_signs import EMPTIED, choose_backend, read_signs

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


def require_rq(docora: Docora, what: str, instead: str, *, alone: str = "") -> None:
    """Raises NeedsRqError if the backend is BullMQ, UnclearBackendError if it is unclear.

    With `alone`, raises WrongBackendError if a BullMQ worker runs.

    what: the command or option that needs RQ.
    instead: what to do instead with BullMQ.
    alone: why no BullMQ worker may run; empty if BullMQ workers may run.
    """
    queue, is_set = docora.queue, docora.settings.backend is not None
    if queue.can_push:
        if alone and queue.use.other is OtherQueue.WORKED_ON:
            raise WrongBackendError(f"a BullMQ worker of Docora runs: {alone}", hint=instead)
        return
    if not (is_set or queue.use.workers):
        instead += "; if no BullMQ worker is to run, set DOCORA_OPS_BACKEND=rq"
    backend = "DOCORA_OPS_BACKEND" if is_set else "the backend in use"
    raise NeedsRqError(
        f"{what} needs RQ's queue, and {backend} is {queue.backend}: nothing is written to "
        "Docora's own queue",
        hint=instead,
    )


def require_rq_for_front(docora: Docora) -> None:
    """Raises the errors of `require_rq` if `--front` can't be used."""
    require_rq(docora, "--front", "leave out --front: Docora's scheduler queues the links")


def require_right_workers(docora: Docora, *, alone: bool = False) -> None:
    """Raises WrongBackendError if only workers of the other backend are running.

    Jobs of the other backend are not known, so links that its workers scan would look stuck.

    alone: also raise the error if workers of both backends are running.
    """
    use, advice = docora.queue.use, docora.queue.advice
    if use.other is OtherQueue.WORKED_ON and (alone or not use.workers):
        message, hint = advice.others_beside, advice.to_stop_others
        if not use.workers:
            message, hint = advice.only_others, f"{advice.to_switch}: see docora-ops help workers"
        if seconds := docora.queue.seconds_until_others_forgotten():
            hint += f"; if all of these were killed, try again in {duration(seconds)}"
        raise WrongBackendError(message, hint=hint)


def warn_of_workers(docora: Docora) -> int:
    """Warns of anything that keeps jobs from being taken. Returns the number of live workers.

    Warns if there is no worker, if workers are suspended, if workers of the other backend are
    running, or if jobs are left in the queue of the other backend.
    """
    queue = docora.queue_to_read
    use, advice = queue.use, queue.advice
    if not queue.choice.is_clear:
        return use.workers
    if use.other is OtherQueue.WORKED_ON:
        warn_of_other_workers(docora)
    elif not use.workers:
        start = advice.to_start_workers
        docora.warn(f"{advice.no_worker}: jobs wait until one is started: {start}")
    if use.suspension:
        docora.warn(f"{use.suspension.sentence}. To go on: {advice.to_resume}")
    if use.other is OtherQueue.LEFT_JOBS and advice.others_left_jobs:
        docora.warn(advice.others_left_jobs)
    return use.workers


def warn_of_mute_workers(docora: Docora, names: Sequence[str]) -> None:
    """Warns of live workers that record no outcomes, if there are any."""
    if names:
        names = ", ".join(map(inert, names))
        docora.warn(f"snapshots of these workers are not counted: {names}; see docora-ops doctor")


def warn_of_other_workers(docora: Docora) -> None:
    """Warns if workers of the other backend are running: their jobs are not shown."""
    queue, advice = docora.queue_to_read, docora.queue_to_read.advice
    if queue.choice.is_clear and queue.use.other is OtherQueue.WORKED_ON:
        if queue.use.workers:
            docora.warn(f"{advice.others_beside}: {advice.to_stop_others}")
        else:
            docora.warn(f"{advice.only_others}: {advice.to_switch}")
