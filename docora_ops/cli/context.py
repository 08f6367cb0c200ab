"""Shared by all commands: settings, connections, and printing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import typer

from docora_ops.cli.env_file import env_file_of
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.signals import finishing_first
from docora_ops.errors import (
    DocoraOpsError,
    NeedsRqError,
    Retyped,
    UnclearBackendError,
    UsageError,
    WrongBackendError,
)

if TYPE_CHECKING:
    from rich.console import Console

    from docora_ops.advice import Advice
    from docora_ops.database import Database
    from docora_ops.jobs import BackendChoice, OtherQueue
    from docora_ops.queue import LinkQueue, ProgressStore, Redis
    from docora_ops.settings import Settings


@dataclass
class Context:
    """Lives as long as one command. Imports and connects only what is used."""

    env_file: Path | None = None
    as_json: bool = False
    dry_run: bool = False
    wait: bool = False
    timeout: int | None = None
    arguments: ClassVar[Sequence[str]] = ()
    """The command line after the program's name."""
    document_has_begun: ClassVar[bool] = False
    """True once a document is on stdout, which may hold only one."""

    @cached_property
    def settings(self) -> Settings:
        """Settings of the environment and the env file. Raises ConfigurationError.

        Warns of what could not be taken as it was written.
        """
        from docora_ops.settings import load_settings

        settings = load_settings(self.env_file)
        for warning in settings.warnings:
            self.warn(f"Warning: {warning}")
        return settings

    @cached_property
    def database(self) -> Database:
        """Docora's database."""
        from docora_ops.database import Database

        return Database(self.settings)

    @cached_property
    def redis(self) -> Redis:
        """The client of Redis, whose server is named if no setting names one."""
        from docora_ops.queue import connect
        from docora_ops.queue.redis_client import describe

        client = connect(self.settings)
        if self.settings.redis_is_implied:
            self.say(f"REDIS_URL is not set: using Redis at {describe(client)}")
        return client

    @property
    def redis_server(self) -> str:
        """Redis with its database, without secrets."""
        from docora_ops.queue.redis_client import describe

        return f"Redis {describe(self.redis)}"

    @property
    def servers(self) -> str:
        """Both servers, with their databases and without secrets."""
        return f"{self.database.place}, {self.redis_server}"

    @cached_property
    def queue(self) -> LinkQueue:
        """The queue of snapshot jobs.

        Raises UnclearBackendError: whoever changes something must know which workers run.
        """
        queue = self._open_queue()
        if not queue.choice.is_clear:
            raise UnclearBackendError(
                f"{queue.choice.sentence}: nothing is changed", hint=queue.choice.to_set
            )
        self._tell(queue.choice)
        return queue

    def queue_to_read(self) -> LinkQueue:
        """Returns the queue, with a warning if it is unclear which workers run."""
        is_new = "queue" not in self.__dict__
        queue = self.open_queue_to_read()
        if is_new:
            self.tell_backend()
        return queue

    def open_queue_to_read(self) -> LinkQueue:
        """Returns the queue and says nothing, for a thread in the background."""
        if "queue" not in self.__dict__:
            self.queue = self._open_queue()
        return self.queue

    def tell_backend(self) -> None:
        """Says which backend was found out, or warns if that is unclear."""
        if "queue" in self.__dict__:
            self._tell(self.queue.choice)

    def _tell(self, choice: BackendChoice) -> None:
        if not choice.is_clear:
            self.warn(f"Warning: {choice.sentence}: only RQ's jobs are shown; {choice.to_set}")
        elif choice.sentence:
            self.say(choice.sentence)

    def _open_queue(self) -> LinkQueue:
        from docora_ops.actions.open_queue import open_queue

        return open_queue(self.settings, self.redis)

    @cached_property
    def store(self) -> ProgressStore:
        """The progress of bulk operations."""
        from docora_ops.queue import ProgressStore

        return ProgressStore(self.redis)

    @cached_property
    def out(self) -> Console:
        """The console for data."""
        from docora_ops.render.console import make_console

        return make_console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        """The console for conversation."""
        from docora_ops.render.console import make_console

        return make_console(sys.stderr)

    @property
    def advice(self) -> Advice:
        """The sentences about the backend."""
        from docora_ops.advice import ADVICE

        return ADVICE[self.queue.backend]

    def require_rq(self, what: str, instead: str) -> None:
        """Raises NeedsRqError if the queue is Docora's own. `instead`: what there is for it."""
        if self.queue.is_docoras:
            backend = "DOCORA_OPS_BACKEND"
            if self.settings.backend is None:
                backend = "the backend in use"
            if not self.queue.count_workers():
                instead += "; no BullMQ worker is seen: RUN_MODE=all or worker brings one"
                if self.settings.backend is None:
                    instead += ", and where RUN_MODE=api is to stay, set DOCORA_OPS_BACKEND=rq"
            raise NeedsRqError(
                f"{what} needs RQ's queue, and {backend} is bullmq: nothing is written "
                "to Docora's own queue",
                hint=instead,
            )

    def require_right_backend(self, *, alone: bool = False) -> tuple[int, OtherQueue]:
        """Raises WrongBackendError if only workers of the other backend run.

        Their jobs are not known then: links that are at work would be taken for stuck ones.
        `alone`: raises also if they run beside ours.
        Returns the number of live workers, and the state of the other queue.
        """
        from docora_ops.jobs import OtherQueue

        workers, other = self.queue.count_workers(), self.queue.read_other()
        if other.is_the_only_one(workers):
            raise WrongBackendError(
                self.advice.only_others,
                hint=f"{self.advice.to_switch}: see docora-ops help workers",
            )
        if alone and other is OtherQueue.WORKED_ON:
            raise WrongBackendError(self.advice.others_beside, hint=self.advice.to_stop_others)
        return workers, other

    def require_rq_for_front(self) -> None:
        """Raises NeedsRqError if the queue is Docora's own."""
        self.require_rq("--front", "leave out --front: Docora's scheduler queues the links")

    def collect_garbage(self) -> None:
        """Turns the garbage collector on again, for a command that may run long."""
        gc.freeze()
        gc.enable()

    def close(self) -> None:
        """Closes the database connection, if there is one."""
        if "database" in self.__dict__:
            self.database.close()

    def reconnect(self) -> None:
        """Replaces a database connection that was lost."""
        self.database.close()
        self.database = self.database.sibling()

    def show(self, data: object, parts: Iterable[object], footer: str = "") -> None:
        """Prints the data with `--json`, otherwise the parts and the footer."""
        if self.as_json:
            self.show_document(data)
        else:
            self.show_tables(parts, footer)

    def show_tables(
        self, parts: Iterable[object], footer: str = "", *, is_last: bool = True
    ) -> None:
        """Prints lists, screens of names and values, and sentences on stdout.

        A terminal shows the footer below them, and what is taller than the screen in the pager. In
        a pipe the footer is conversation. `is_last`: False if the command goes on afterwards, so
        that it may not wait for a key.
        """
        from docora_ops.render.columns import cell

        if not sys.stdout.isatty():
            self._show_plain(parts)
            if footer:
                self.say(footer)
            return
        parts = chain(parts, [cell(footer)] if footer else ())
        if is_last:
            from docora_ops.cli.pager import show_paged

            show_paged(map(self._rendered, parts), self.out.height)
        else:
            for part in parts:
                self.out.print(part, crop=False)

    def _show_plain(self, parts: Iterable[object]) -> None:
        from docora_ops.render.columns import lines_of

        with finishing_first(is_all=False):
            for line in chain.from_iterable(map(lines_of, parts)):
                sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def _rendered(self, part: object) -> str:
        with self.out.capture() as capture:
            self.out.print(part, crop=False)
        return capture.get()

    def show_document(self, data: object, error: DocoraOpsError | None = None) -> None:
        """Prints data for a script on stdout, with the error that ended the command, if any.

        `data`: a dataclass, a page of a list, or None if the command came to no result.
        """
        from docora_ops.render.documents import document_of, encode

        self.show_text(encode(document_of(data, Context.arguments, error)))

    def show_text(self, pieces: Iterable[str]) -> None:
        """Prints a text piece by piece on stdout."""
        with finishing_first(is_all=True):
            for piece in pieces:
                Context.document_has_begun = True
                sys.stdout.write(piece)
            sys.stdout.write("\n")
            sys.stdout.flush()

    def say(self, text: str, *, style: str | None = None) -> None:
        """Prints one line of conversation on stderr, as inert text.

        On a terminal that is too narrow for the line, a command begins a line of its own, and the
        rest is broken between words: no id is broken in two.
        """
        from docora_ops.text import inert

        text = inert(text)
        if not sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
            return
        from rich.cells import cell_len

        if cell_len(text) <= self.err.width:
            self.err.print(text, style=style, soft_wrap=True)
            return
        sentence, colon, commands = text.partition(": docora-ops ")
        self.err.print(sentence + colon[:1], style=style)
        for command in commands.split(" or: docora-ops ") if commands else ():
            self.err.print(f"  docora-ops {command}", style=style, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints one line of conversation in yellow."""
        self.say(text, style="yellow")

    def report(self, error: DocoraOpsError, stopped: str = "", next_step: str = "") -> ExitCode:
        """Prints an error; with `--json` as a document too, unless there is one already.

        `stopped` says how far the command came, `next_step` what else to do than the error's hint.
        Returns the exit code.
        """
        if self.as_json and not Context.document_has_begun:
            self.show_document(None, error)
        self.say(f"Error: {error.message}", style="bold red")
        if stopped:
            self.say(stopped)
        if hint := "; ".join(filter(None, (next_step, error.hint))):
            self.say(f"Hint: {hint}")
        return exit_code_of(error)

    def warn_of_wrong_backend(self) -> None:
        """Warns if only workers of the other backend run, whose jobs are not shown."""
        queue = self.queue
        if queue.choice.is_clear and queue.read_other().is_the_only_one(queue.count_workers()):
            self.warn_of_others(has_workers=False)

    def warn_of_others(self, *, has_workers: bool) -> None:
        """Warns that workers of the other backend run, beside workers of this one or alone."""
        advice = self.advice
        if has_workers:
            self.warn(f"Warning: {advice.others_beside}: {advice.to_stop_others}")
        else:
            self.warn(f"Warning: {advice.only_others}: {advice.to_switch}")

    def count_workers(self, *, to_change: bool = False, alone: bool = False) -> int:
        """Counts the live workers.

        Warns if there is none, if workers are suspended, or if the other backend is in use.
        `to_change`: raises WrongBackendError if only workers of the other backend run, and with
        `alone` also if they run beside ours.
        """
        from docora_ops.jobs import OtherQueue

        if to_change:
            workers, other = self.require_right_backend(alone=alone)
        else:
            workers, other = self.queue_to_read().count_workers(), self.queue.read_other()
        advice = self.advice
        is_worked_on = other is OtherQueue.WORKED_ON
        if not self.queue.choice.is_clear:
            return workers
        if not workers and not is_worked_on and self.queue.is_docoras:
            self.warn(
                "Warning: no BullMQ worker is seen: links wait until one is started: "
                f"{advice.to_start_workers}"
            )
        elif not workers and not is_worked_on:
            self.warn(
                f"Warning: no worker listens on the queue {self.settings.queue_name}: "
                "jobs wait until one is started"
            )
        if suspension := self.queue.read_suspension():
            self.warn(f"Warning: {suspension.sentence}. To go on: {advice.to_resume}")
        if is_worked_on:
            self.warn_of_others(has_workers=workers > 0)
        if other is OtherQueue.LEFT_JOBS and not self.queue.is_docoras:
            what_to_do = "docora-ops schedule, run each minute, queues their links"
            if not workers:
                start = f"if Docora has workers of its own, {advice.to_switch} and start it"
                what_to_do = f"{start}; otherwise {what_to_do}"
            self.warn(
                "Warning: Docora's BullMQ queue holds jobs, and no BullMQ worker runs to take "
                f"them: {what_to_do}. docora-ops doctor has the command that removes the jobs."
            )
        return workers


def context_of(typer_context: typer.Context, *, waits: bool = False) -> Context:
    """Returns the Context of the command, which knows the options that many commands have.

    `waits`: the command always waits. Raises UsageError if options contradict each other.
    """
    context: Context = typer_context.obj
    context.env_file = env_file_of(typer_context)
    given = typer_context.params
    context.as_json = given.get("as_json", False)
    context.dry_run = given.get("dry_run", False)
    context.wait = given.get("wait", waits)
    context.timeout = given.get("timeout")
    is_paced = given.get("in_flight") is not None
    if given.get("max_failures") is not None and not is_paced:
        raise UsageError(
            "--max-failures needs --in-flight: without it, all links are queued at once",
            hint="add --in-flight",
            retyped=[Retyped(added=("--in-flight=N",))],
        )
    if context.timeout is not None and not context.wait and not is_paced:
        others = " or --in-flight" if "in_flight" in given else ""
        raise UsageError(
            f"--timeout needs --wait{others}",
            hint=f"add --wait{others}",
            retyped=[Retyped(added=("--wait",))],
        )
    if context.wait and context.dry_run:
        raise UsageError(
            "--wait and --dry-run exclude each other: a dry run queues nothing",
            hint="leave out one of them",
        )
    context.wait |= is_paced and not context.dry_run
    return context
