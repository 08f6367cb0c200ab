"""The table of commands, and how each is run."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile
from typing import Annotated, Any, ClassVar

import typer
from typer._click.shell_completion import CompletionItem

from docora_ops import __version__
from docora_ops.cli.apps import apps
from docora_ops.cli.context import Context
from docora_ops.cli.demo import demo
from docora_ops.cli.doctor import doctor
from docora_ops.cli.env_file import with_env_file
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.help import show_help
from docora_ops.cli.history import history
from docora_ops.cli.lean import LeanCommand
from docora_ops.cli.links import failed, links
from docora_ops.cli.metrics import metrics
from docora_ops.cli.operations import cancel, operations, progress
from docora_ops.cli.pause import pause, resume
from docora_ops.cli.queue import queue
from docora_ops.cli.repair import repair
from docora_ops.cli.resync import resync
from docora_ops.cli.retry import retry
from docora_ops.cli.retry_all_failed import retry_all_failed
from docora_ops.cli.schedule import schedule
from docora_ops.cli.shell_completion import CompletingGroup
from docora_ops.cli.show import show
from docora_ops.cli.signals import interrupt_on_signals, interruption, taking_signals
from docora_ops.cli.status import status
from docora_ops.cli.streams import guard_streams
from docora_ops.cli.typed import quoted_name, with_commands
from docora_ops.cli.wait import wait
from docora_ops.cli.worker import worker
from docora_ops.errors import BugError, DocoraOpsError, UsageError

_COMMANDS: tuple[tuple[str, Callable[..., int | None], str], ...] = (
    ("status", status, "docora-ops status --watch"),
    ("failed", failed, "docora-ops failed --group-by error"),
    ("links", links, "docora-ops links --repo octo/api --status synced"),
    ("apps", apps, "docora-ops apps --limit 10"),
    ("show", show, "docora-ops show 'Acme Search' octo/api"),
    ("queue", queue, "docora-ops queue --limit 100"),
    ("doctor", doctor, "docora-ops doctor --json"),
    ("metrics", metrics, "docora-ops metrics --by-app"),
    ("retry", retry, "docora-ops retry 'Acme Search' octo/api --front"),
    ("retry-all-failed", retry_all_failed, "docora-ops retry-all-failed --error 502 --dry-run"),
    ("resync", resync, "docora-ops resync 'Acme Search' octo/api"),
    ("repair", repair, "docora-ops repair 'Acme Search' octo/api --dry-run"),
    ("schedule", schedule, "docora-ops schedule --dry-run"),
    ("operations", operations, "docora-ops operations"),
    ("progress", progress, "docora-ops progress bulk_0123456789abcdef --follow"),
    ("wait", wait, "docora-ops wait bulk_0123456789abcdef --timeout 600"),
    ("cancel", cancel, "docora-ops cancel bulk_0123456789abcdef"),
    ("pause", pause, "docora-ops pause --for 10m"),
    ("resume", resume, "docora-ops resume"),
    ("history", history, "docora-ops history --no-schedule"),
    ("worker", worker, "docora-ops worker"),
    ("demo", demo, "docora-ops demo --keep"),
    ("help", show_help, "docora-ops help exit-codes"),
)
_WITHOUT_SETTINGS = (demo, show_help)
_WIDEST_HELP = 1_000
"""Columns: the help is as wide as the terminal."""


class _Command(LeanCommand):
    def invoke(self, ctx: Any) -> Any:
        """Hides KeyboardInterrupt from Typer, which would exit without a message."""
        try:
            with taking_signals():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise interruption() from None


class _Commands(Mapping[str, Any]):
    """Typer's command by name, made when it is asked for: to make all takes 25 ms."""

    _rows: ClassVar = {name: (command, example) for name, command, example in _COMMANDS}

    def __getitem__(self, name: str) -> Any:
        return _make_command(name, *self._rows[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows


class _Group(CompletingGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()  # type: ignore[assignment]  # no command is ever added

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Lists the commands with their whole first sentences, and makes none."""
        with formatter.section("Commands"):
            formatter.write_dl(_first_sentences())

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        """Returns the commands, or options, that begin with the typed text; makes no command."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=sentence)
            for name, sentence in _first_sentences()
            if name.startswith(incomplete)
        ]


def _first_sentences() -> list[tuple[str, str]]:
    return [(name, _help_of(command).partition("\n")[0]) for name, command, _ in _COMMANDS]


@cache
def _make_command(name: str, command: Callable[..., int | None], example: str) -> Any:
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name, cls=_Command, help=_help_of(command), epilog=f"Example: {example}")(
        command if command in _WITHOUT_SETTINGS else with_env_file(command)
    )
    return typer.main.get_command(alone)


def _help_of(command: Callable[..., int | None]) -> str:
    """Returns the docstring without line breaks in its paragraphs: Typer would keep them."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


# Help is plain text: for rich's markup Typer imports a Markdown reader and a syntax highlighter,
# which takes longer than the rest of a help page.
app = typer.Typer(
    name="docora-ops",
    cls=_Group,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": _WIDEST_HELP},
    epilog="Example: docora-ops retry 'Acme Search' octo/api",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"docora-ops {__version__}\n")
        raise typer.Exit


@app.callback()
@with_env_file
def _options(
    typer_context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Retry failed links of a Docora installation, and look after its snapshot queue."""
    context = Context()
    typer_context.obj = context
    typer_context.call_on_close(context.close)


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code. Raises nothing."""
    output = guard_streams()
    interrupt_on_signals()
    code = _run(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if output.failure is not None:
        Context().say(f"Error: the output can't be written: {output.failure.strerror}")
        return code or ExitCode.PROBLEMS
    return code


def _run(arguments: Sequence[str]) -> int:
    Context.arguments = arguments
    context = Context(as_json="--json" in takewhile("--".__ne__, arguments))
    try:
        words = list(arguments) or ["--help"]
        code = app(words, standalone_mode=False, prog_name="docora-ops")
        return int(code or 0) if arguments else ExitCode.USAGE
    except typer.TyperException as error:
        message = error.format_message().replace(": Value error, ", ": ")
        return context.report(_usage_error(message, arguments))
    except DocoraOpsError as error:
        return context.report(with_commands(error, arguments, typer.main.get_command(app)))
    except (typer.Abort, KeyboardInterrupt):
        return context.report(interruption())
    except Exception as error:  # noqa: BLE001 - a bug, which is reported
        return _report_bug(context, error)


def _usage_error(message: str, arguments: Sequence[str]) -> UsageError:
    hint = "docora-ops --help, or the command's own --help"
    if message.startswith("Got unexpected extra argument"):
        command = quoted_name(arguments, typer.main.get_command(app))
        hint = "a name with blanks goes into quotes" + (
            f": {command}" if command else f"; see {hint}"
        )
    return UsageError(message, hint=hint)


def _report_bug(context: Context, error: Exception) -> int:
    sentence = f"this is a bug in docora-ops {__version__}: {type(error).__name__}"
    if context.as_json and not Context.document_has_begun:
        context.show_document(None, BugError(sentence))
    # The place, but not the text of the exception or its causes, which may hold secrets.
    sys.stderr.write("".join(traceback.format_tb(error.__traceback__)))
    sys.stderr.write(f"Error: {sentence}\nHint: please report it with the lines above\n")
    return ExitCode.BUG
