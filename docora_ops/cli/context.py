"""Settings, connections and printing, which all commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.terminal import Terminal, finishing_first, terminal_to_ask
from docora_ops.errors import DocoraOpsError
from docora_ops.operations import NO_OPTIONS, ChangeOptions
from docora_ops.text import mask

if TYPE_CHECKING:
    from docora_ops.actions.docora import Docora
    from docora_ops.actions.lookup import LinkChoice
    from docora_ops.actions.pages import Page
    from docora_ops.links import LinkStatus
    from docora_ops.render.columns import Column

T = TypeVar("T")


@dataclass
class Context:
    """The running command: its arguments and options, its connections, and what it has printed."""

    arguments: Sequence[str] = ()
    """The command line after the program's name."""
    as_json: bool = False
    typer_context: typer.Context | None = None
    options: ChangeOptions = NO_OPTIONS
    """The change options of the command line."""
    document_has_begun: bool = False
    """True once a document has been printed: stdout must contain only one."""
    tells_time: bool = False
    """Whether each line on stderr begins with the time, as in a log."""

    @cached_property
    def docora(self) -> Docora:
        """Returns the Docora of the environment and the env file. Raises ConfigurationError."""
        from docora_ops.actions.docora import Docora
        from docora_ops.settings import load_settings

        chosen = self.typer_context.params if self.typer_context else {}
        return Docora(load_settings(chosen.get("env_file")))

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
                self.say(notice, style="yellow" if notice.startswith("Warning") else None)

    def show(self, data: object, parts: Iterable[object], *, footer: str = "") -> None:
        """With `--json`, prints the data as a document; otherwise, prints the parts as a screen.

        footer: the last line of the screen.
        """
        if self.as_json:
            self.show_document(data)
        else:
            self.show_tables(parts, footer)

    def show_page(
        self,
        page: Page[Any],
        columns: Sequence[Column[Any]],
        where: str,
        noun: str,
        lost: DocoraOpsError | None = None,
        *,
        is_compact: bool = False,
        line: Callable[[Any, int], str] | None = None,
    ) -> None:
        """Prints one page of a long list, and a line with the total number of rows and the page.

        lost: the error behind missing data. Printed only with `--json`, in the document.
        is_compact, line: as in `Listing`.
        """
        if self.as_json:
            self.show_document(None, lost, page)
            return
        from docora_ops.render.columns import Listing
        from docora_ops.text import amount

        rows = amount(page.total, noun)
        place = f"{rows}, page {page.number} of {page.pages}"
        if not page.total:
            place = f"no {noun}s"
        elif not page.rows:
            place = f"there is no page {page.number}: {rows}, {amount(page.pages, 'page')}"
        is_shown = page.rows or not sys.stdout.isatty()
        listing = Listing(columns, page.rows, is_compact=is_compact, line=line)
        parts = [listing] if is_shown else []
        self.show_tables(parts, f"{where}: {place}.")

    def show_tables(self, parts: Iterable[object], footer: str = "") -> None:
        """Prints lists, screens of names and values, and sentences on stdout.

        footer: the last line; goes to stderr unless stdout is a terminal.
        """
        from docora_ops.render.columns import Listing, Pairs, cell

        self.tell()
        if sys.stdout.isatty():
            sys.stdout.write(self.text_of([*parts, *([cell(footer)] if footer else [])]))
            sys.stdout.flush()
            return
        for part in parts:
            for line in part.lines() if isinstance(part, Listing | Pairs) else [str(part)]:
                sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        if footer:
            self.say(footer)

    def text_of(self, parts: Iterable[object]) -> str:
        """Returns the parts of a screen as text for the terminal of stdout."""
        from docora_ops.render.console import make_console

        console = make_console(sys.stdout)
        with console.capture() as capture:
            for part in parts:
                console.print(part, crop=False)
        return capture.get()

    def show_document(
        self, data: object, error: DocoraOpsError | None = None, page: Page[Any] | None = None
    ) -> None:
        """Prints data for a script on stdout, with the error that ended the command, if any.

        page: a page of a list, instead of the data.
        """
        from docora_ops.render.documents import document_of, encode

        self.tell()
        with finishing_first():
            document = document_of(data, self.arguments, error, page)
            for piece in encode(document):
                self.document_has_begun = True
                sys.stdout.write(piece)
            sys.stdout.write("\n")
            sys.stdout.flush()

    def say(self, text: str, *, style: str | None = None) -> None:
        """Prints one line on stderr, as inert text."""
        from docora_ops.text import inert, moment

        self.tell()
        if self.tells_time:
            text = f"{moment(datetime.now(UTC))} {text}"
        if sys.stderr.isatty():
            from docora_ops.render.console import make_console, wrapped

            console = make_console(sys.stderr)
            console.print(wrapped(inert(text), console.width), style=style, soft_wrap=True)
        else:
            sys.stderr.write(f"{inert(text)}\n")

    def telling_of_second_look(
        self, events: Iterable[T], suspect: str, suspects: str
    ) -> Iterator[T]:
        """Yields the events; says once that the suspects of the first look are checked again.

        suspect, suspects: singular and plural of the word for a suspect.
        """
        from docora_ops.actions.drift import Suspects
        from docora_ops.text import amount

        delay = self.docora.settings.drift_grace
        for event in events:
            if delay and isinstance(event, Suspects) and event.count:
                counted = amount(event.count, suspect, suspects)
                self.say(f"{counted} at first check: checking again in {delay} s.")
                delay = 0
            yield event

    def warn(self, text: str) -> None:
        """Prints one line on stderr, in yellow."""
        self.say(text, style="yellow")

    def report(self, error: DocoraOpsError, stopped: str = "", next_step: str = "") -> ExitCode:
        """Prints an error and returns its exit code.

        With `--json`, prints a document, too, unless one has begun.

        stopped: what was done before the error.
        next_step: what to do, in addition to the error's hint.
        """
        if self.as_json and not self.document_has_begun:
            self.show_document(None, error)
        self.say(f"Error: {mask(error.message)}", style="bold red")
        if stopped:
            self.say(stopped)
        if hint := "; ".join(filter(None, (next_step, error.hint))):
            self.say(f"Hint: {mask(hint)}")
        return exit_code_of(error)


def context_of(typer_context: typer.Context, *, waits: bool = False) -> Context:
    """Puts `--json` and the change options of the command line into the Context, and returns it.

    Raises UsageError if the options contradict each other; BadParameter if a value is empty or not
    valid text.

    waits: the command always waits, so it has no `--wait`.
    """
    command: Any = typer_context.command
    parameters = typer_context.params
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
    names = [field.name for field in fields(ChangeOptions) if field.name in parameters]
    chosen = {name: parameters[name] for name in names} | ({"wait": True} if waits else {})
    context: Context = typer_context.obj
    context.typer_context = typer_context
    context.as_json = parameters.get("as_json", False)
    if chosen:
        context.options = ChangeOptions(**chosen)
    typer_context.call_on_close(context.close)
    return context


def confirmation(typer_context: typer.Context) -> Terminal | None:
    """Returns the terminal for a confirmation prompt; None if the command goes on without asking.

    Raises UsageError in a background job, which can't ask.
    """
    parameters = typer_context.params
    return None if parameters.get("dry_run") or parameters["yes"] else terminal_to_ask()


def link_choice(typer_context: typer.Context, statuses: Sequence[LinkStatus] = ()) -> LinkChoice:
    """Returns the choice of links that the command line makes. `statuses`: empty means all."""
    from docora_ops.actions.lookup import LinkChoice

    parameters = typer_context.params
    return LinkChoice(
        apps=parameters.get("app") or (),
        exclude_apps=parameters.get("exclude_app") or (),
        repositories=parameters.get("repo") or (),
        statuses=statuses,
        errors=parameters.get("error") or (),
        exclude_errors=parameters.get("exclude_error") or (),
        no_error=parameters.get("no_error", False),
        open_circuit=parameters.get("circuit") and parameters["circuit"] == "open",
        last_scan_before=parameters["last_scan_before"],
        last_scan_after=parameters["last_scan_after"],
        overdue=parameters.get("overdue", False),
    )
