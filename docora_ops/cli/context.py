"""What commands share: connections, built when first used, and saying things."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import typer

from docora_ops.cli.signals import finishing_first
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from docora_ops.database import Database
    from docora_ops.jobs import Surroundings
    from docora_ops.queue import History, LinkQueue, ProgressStore, QueueReader, Redis
    from docora_ops.render.documents import Document
    from docora_ops.settings import Settings


@dataclass
class Context:
    """Lives as long as one command. Nothing is imported or connected before it is needed."""

    env_file: Path | None
    document_has_begun: ClassVar[bool] = False
    """True once a document is on stdout. A second one would make both unreadable."""

    @cached_property
    def settings(self) -> Settings:
        """From the environment and the env file. Raises ConfigurationError."""
        from docora_ops.settings import load_settings

        return load_settings(self.env_file)

    @cached_property
    def database(self) -> Database:
        """Docora's database."""
        from docora_ops.database import Database

        return Database(self.settings)

    @cached_property
    def redis(self) -> Redis:
        """The client that queue and store share."""
        from docora_ops.queue import connect

        client = connect(self.settings)
        self.say_if_redis_is_implied()
        return client

    @property
    def servers(self) -> str:
        """Both servers, with their databases and without secrets."""
        from docora_ops.queue.redis_client import describe

        _ = self.redis  # or REDIS_URL may be unusable
        return f"{self.database.target}, Redis {describe(self.settings)}"

    @cached_property
    def queue(self) -> LinkQueue:
        """The queue of snapshot jobs."""
        from docora_ops.queue import LinkQueue

        return LinkQueue(self.settings, self.redis)

    @cached_property
    def queue_reader(self) -> QueueReader:
        """The same queue, to be looked into."""
        from docora_ops.queue import QueueReader

        return QueueReader(self.settings, self.redis)

    @cached_property
    def store(self) -> ProgressStore:
        """The progress of bulk operations."""
        from docora_ops.queue import ProgressStore

        return ProgressStore(self.settings, self.redis)

    @cached_property
    def history(self) -> History:
        """The audit trail."""
        from docora_ops.queue import History

        return History(self.settings, self.redis)

    def new_store(self, settings: Settings) -> ProgressStore:
        """A store with a connection of its own."""
        from docora_ops.queue import ProgressStore, connect

        return ProgressStore(settings, connect(settings))

    @cached_property
    def out(self) -> Console:
        """For data."""
        from docora_ops.render.console import output

        return output()

    @cached_property
    def err(self) -> Console:
        """For conversation that needs no answer."""
        from docora_ops.render.console import conversation

        return conversation()

    def collect_garbage(self) -> None:
        """Turn the collector on again, for a command that may run long."""
        gc.freeze()
        gc.enable()

    def close(self) -> None:
        """End the database connection, if there is one."""
        if "database" in self.__dict__:
            self.database.close()

    def show(self, *renderables: RenderableType) -> None:
        """Data for a person, on stdout."""
        if sys.stdout.isatty():
            self.out.print(*renderables, sep="\n")
            return
        from docora_ops.render.plain import lines

        rule = "-" if self.out.options.ascii_only else "─"
        with finishing_first(is_all=False):
            for renderable in renderables:
                for line in lines(renderable, rule):
                    sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def show_document(self, document: Document) -> None:
        """Data for a script, on stdout."""
        from docora_ops.render.documents import encode

        self.show_text([encode(document)])

    def show_text(self, pieces: Iterable[str]) -> None:
        """Pieces of one line for a script, on stdout."""
        with finishing_first(is_all=True):
            for piece in pieces:
                Context.document_has_begun = True
                sys.stdout.write(piece)
            sys.stdout.write("\n")
            sys.stdout.flush()

    def say(self, text: str, *values: object, style: str = "") -> None:
        """One line of conversation, on stderr; `values` fill the braces and are made inert."""
        from docora_ops.text import inert

        self.err.print(text.format(*map(inert, values)), style=style or None, soft_wrap=True)

    def say_if_redis_is_implied(self) -> None:
        """Say which Redis is used where no setting names one. Raises ConfigurationError."""
        if self.settings.redis_is_implied:
            from docora_ops.queue.redis_client import describe

            self.say("REDIS_URL is not set: using Redis at {}", describe(self.settings))

    def warn(self, surroundings: Surroundings) -> None:
        """Say, before a change, what is odd on the queue."""
        from docora_ops.jobs import BullmqQueue

        if surroundings.workers == 0:
            self.say(
                "Warning: no worker listens on the queue {}: jobs wait until one is started",
                self.settings.queue_name,
                style="yellow",
            )
        if surroundings.bullmq is BullmqQueue.WORKED_ON:
            self.say(
                "Warning: a BullMQ worker of Docora runs beside the RQ queue: each link may be "
                "worked on twice. Run Docora with RUN_MODE=api.",
                style="yellow",
            )
        if surroundings.bullmq is BullmqQueue.LEFT_JOBS:
            self.say(
                "Warning: Docora's BullMQ queue holds jobs, and no BullMQ worker runs to take "
                "them: docora-ops schedule queues their links.",
                style="yellow",
            )


def context_of(typer_context: typer.Context) -> Context:
    """Our context of a command."""
    context: Context = typer_context.obj
    return context


def require_text(name: str, value: str | None) -> None:
    """Raise UsageError unless the value, if given, is text that can be looked for."""
    if value is None:
        return
    if not value.strip():
        raise UsageError(f"{name} is empty", hint="give a value")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{name} {value!r} is not valid text", hint="give it as UTF-8")
