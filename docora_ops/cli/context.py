"""Shared by all commands: settings, connections, and printing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.signals import finishing_first
from docora_ops.cli.streams import show_paged
from docora_ops.errors import DocoraOpsError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from docora_ops.actions import Docora
    from docora_ops.pages import Page


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
    def docora(self) -> Docora:
        """The Docora of the environment and the env file. Raises ConfigurationError."""
        from docora_ops.actions import Docora
        from docora_ops.settings import load_settings

        return Docora(load_settings(self.env_file))

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

    def collect_garbage(self) -> None:
        """Turns the garbage collector on again, for a command that may run long."""
        gc.freeze()
        gc.enable()

    def close(self) -> None:
        """Prints the last notices, and closes the connections."""
        self.tell()
        if "docora" in self.__dict__:
            self.docora.close()

    def tell(self) -> None:
        """Prints what actions have noticed since the last call."""
        if "docora" in self.__dict__:
            notices, self.docora.notices = self.docora.notices, []
            for notice in notices:
                self.say(notice, style="yellow" if notice.startswith("Warning") else None)

    def show(self, data: object, parts: Iterable[object], footer: str = "") -> None:
        """Prints the data with `--json`, otherwise the parts and the footer."""
        if self.as_json:
            self.show_document(data)
        else:
            self.show_tables(parts, footer)

    def show_page(
        self,
        page: Page[Any],
        rows: object,
        *,
        where: str,
        counted: str,
        nothing: str,
        lost: DocoraOpsError | None = None,
    ) -> ExitCode:
        """Prints one page of a long list, and a line with `counted` and the page number.

        `rows` lists the page. `where` names the servers. `nothing` is said of an empty list.
        `lost` is the error of a server that did not answer, so that data is missing.
        """
        if self.as_json:
            self.show_document(page, lost)
        else:
            is_shown = page.rows or not sys.stdout.isatty()
            footer = f"{where}: {page.place(counted, nothing)}."
            self.show_tables([rows] if is_shown else [], footer)
        return ExitCode.OK if lost is None else self.report(lost)

    def show_tables(
        self, parts: Iterable[object], footer: str = "", *, is_last: bool = True
    ) -> None:
        """Prints lists, screens of names and values, and sentences on stdout.

        A terminal shows the footer below them, and what is taller than the screen in the pager. In
        a pipe the footer is conversation. `is_last`: False if the command goes on afterwards, so
        that it may not wait for a key.
        """
        from docora_ops.render.columns import cell

        self.tell()
        if not sys.stdout.isatty():
            self._show_plain(parts)
            if footer:
                self.say(footer)
            return
        parts = chain(parts, [cell(footer)] if footer else ())
        if is_last:
            show_paged("".join(map(self._rendered, parts)), self.out.height)
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
        self.tell()
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

        self.tell()
        text = inert(text)
        if not sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
            return
        from rich.cells import cell_len

        if cell_len(text) <= self.err.width:
            self.err.print(text, style=style, soft_wrap=True)
            return
        sentence, colon, command = text.partition(": docora-ops ")
        self.err.print(sentence + colon[:1], style=style)
        if command:
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


def context_of(typer_context: typer.Context, *, waits: bool = False) -> Context:
    """Returns the Context of the command, which knows the options that many commands have.

    `waits`: the command always waits. Raises UsageError if options contradict each other.
    """
    context: Context = typer_context.obj
    given = typer_context.params
    context.env_file = given.get("env_file")
    context.as_json = given.get("as_json", False)
    context.dry_run = given.get("dry_run", False)
    context.wait = given.get("wait", waits)
    context.timeout = given.get("timeout")
    is_paced = given.get("in_flight") is not None
    if given.get("max_failures") is not None and not is_paced:
        raise UsageError(
            "--max-failures needs --in-flight: without it, all links are queued at once",
            hint="add --in-flight N",
        )
    if context.timeout is not None and not context.wait and not is_paced:
        others = " or --in-flight" if "in_flight" in given else ""
        raise UsageError(
            f"--timeout needs --wait{others}",
            hint=f"add --wait{others}",
        )
    if context.wait and context.dry_run:
        raise UsageError(
            "--wait and --dry-run can't be combined: a dry run queues nothing",
            hint="remove one of them",
        )
    context.wait |= is_paced and not context.dry_run
    return context
