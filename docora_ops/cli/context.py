"""What all commands share: their settings and connections, and what they print."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from docora_ops.cli.output import Column, Part, Table, console_of, encode, piped, render, shown
from docora_ops.errors import DocoraOpsError, ExitCode
from docora_ops.text import amount, mask, mask_url

if TYPE_CHECKING:
    from docora_ops.actions.docora import Docora
    from docora_ops.actions.lists import Page


@dataclass
class Context:
    """The running command: its connections, and what it has printed.

    document_is_printed: stdout must contain only one document.
    """

    as_json: bool = False
    env_file: Path | None = None
    document_is_printed: bool = False

    @cached_property
    def docora(self) -> Docora:
        """Returns the Docora of the environment and the env file. Raises ConfigurationError."""
        from docora_ops.actions.docora import Docora
        from docora_ops.settings import load_settings

        words = (mask_url(word) if "://" in word else word for word in sys.argv[1:])
        return Docora(load_settings(self.env_file), shlex.join(["docora-ops", *words]))

    def close(self) -> None:
        """Prints the remaining notices and closes the connections."""
        self.tell()
        if "docora" in vars(self):
            self.docora.close()

    def tell(self) -> None:
        """Prints the notices of actions since the last call."""
        if "docora" in vars(self):
            notices, self.docora.notices = self.docora.notices, []
            for notice in notices:
                self.warn(notice)

    def show(self, data: object, parts: Iterable[Part], *, footer: str = "") -> None:
        """With `--json`, prints the data as a document; otherwise, prints the parts as a screen.

        footer: the last line; goes to stderr unless stdout is a terminal.
        """
        self.tell()
        if self.as_json:
            self.document({"data": data})
        elif sys.stdout.isatty():
            sys.stdout.write(render([*parts, *([footer] if footer else [])]))
        else:
            for line in piped(parts):
                sys.stdout.write(f"{line}\n")
        sys.stdout.flush()  # both streams may lead to one file
        if footer and not self.as_json and not sys.stdout.isatty():
            self.say(footer)

    def show_page(self, page: Page[Any], columns: Sequence[Column[Any]], noun: str) -> None:
        """Prints one page of a long list, and a line with the total number of rows and the page."""
        if self.as_json:
            pagination = {
                "page": page.page,
                "limit": page.limit,
                "total": page.total,
                "total_pages": page.total_pages,
            }
            self.document({"data": page.rows, "pagination": pagination})
            return
        place = f"{amount(page.total, noun)}, page {page.page} of {page.total_pages}"
        if page.page > page.total_pages:
            place = f"{amount(page.total, noun)}, and page {page.total_pages} is the last"
        if not page.total:
            place = f"no {noun}s"
        parts = [Table(columns, page.rows)] if page.rows or not sys.stdout.isatty() else []
        self.show(None, parts, footer=f"{self.docora.database.server}: {place}.")

    def document(self, document: dict[str, object]) -> None:
        """Prints one JSON document on stdout."""
        self.tell()
        self.document_is_printed = True
        sys.stdout.write(encode(document) + "\n")
        sys.stdout.flush()

    def say(self, text: str, *, style: str | None = None) -> None:
        """Prints one line on stderr, as inert text."""
        text = shown(text)
        if sys.stderr.isatty():
            # A line with a command is not broken, so that the command can be pasted.
            console_of(sys.stderr).print(text, style=style, soft_wrap="docora-ops " in text)
        else:
            sys.stderr.write(f"{text}\n")

    def warn(self, text: str) -> None:
        """Prints one line on stderr, in yellow."""
        self.say(text, style="yellow")

    def report(self, error: DocoraOpsError) -> ExitCode:
        """Prints an error, with `--json` also as the document, and returns its exit code."""
        hint = mask(error.hint) if error.hint else None
        if self.as_json and not self.document_is_printed:
            document = {"error": error.message, "code": error.code, **error.details}
            self.document(document | ({"hint": hint} if hint else {}))
        self.tell()
        self.say(f"Error: {error.message}", style="bold red")
        if hint:
            self.say(f"Hint: {hint}")
        return error.exit_code


def context_of(typer_context: typer.Context) -> Context:
    """Returns the Context of a command, with `--json` and `--env-file`.

    Raises BadParameter if a value on the command line is empty or not valid text.
    """
    parameters = typer_context.params
    command: Any = typer_context.command
    for parameter in command.params:
        value = parameters.get(parameter.name)
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            # Usually from an unset shell variable; an empty text would match everything.
            wrong = "" if text.strip() else "the value is empty"
            if any("\ud800" <= character <= "\udfff" for character in text):
                wrong = "the value is not valid UTF-8"
            if wrong:
                raise typer.BadParameter(wrong, ctx=typer_context, param=parameter)
    context: Context = typer_context.obj
    context.as_json = parameters.get("as_json", False)
    context.env_file = parameters.get("env_file")
    return context
