"""The table of commands, and how each is run."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import cleandoc
from itertools import takewhile
from typing import Annotated

import typer

from docora_ops import __version__
from docora_ops.cli.apps import apps
from docora_ops.cli.completion import COMPLETE_VARIABLE, completion
from docora_ops.cli.context import Context
from docora_ops.cli.demo import demo
from docora_ops.cli.doctor import doctor
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.help import show_help
from docora_ops.cli.history import history
from docora_ops.cli.lists import failed, links
from docora_ops.cli.metrics import metrics
from docora_ops.cli.operations import cancel, operations, progress
from docora_ops.cli.pause import pause, resume
from docora_ops.cli.queue import queue
from docora_ops.cli.repair import repair
from docora_ops.cli.resync import resync
from docora_ops.cli.retry import retry
from docora_ops.cli.retry_all_failed import retry_all_failed
from docora_ops.cli.schedule import schedule
from docora_ops.cli.show import show
from docora_ops.cli.signals import interrupt_on_signals, interruption, taking_signals
from docora_ops.cli.status import status
from docora_ops.cli.streams import guard_streams
from docora_ops.cli.wait import wait
from docora_ops.cli.worker import worker
from docora_ops.errors import BugError, DocoraOpsError, UsageError

_COMPLETION_SECONDS = 2

# Help is plain text: for rich's markup Typer imports a Markdown reader and a syntax highlighter,
# which takes longer than the rest of a help page. Typer's own options for completion would install
# scripts that evaluate the names they are given.
app = typer.Typer(
    name="docora-ops",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Example: docora-ops retry 'Acme Search' octo/api",
)


def _add(command: Callable[..., int | None], example: str, name: str | None = None) -> None:
    """Adds a command to the app. Its docstring is its help."""

    @wraps(command)
    def run(**arguments: object) -> int | None:
        try:
            with taking_signals():
                return command(**arguments)
        except KeyboardInterrupt:  # Typer would exit without a message
            raise interruption() from None

    text = cleandoc(command.__doc__ or "")
    add = app.command(
        name, help=text, short_help=text.partition("\n")[0], epilog=f"Example: docora-ops {example}"
    )
    add(run)


_add(status, "status --watch")
_add(failed, "failed --group-by error")
_add(links, "links --repo octo/api --status synced")
_add(apps, "apps --limit 10")
_add(show, "show 'Acme Search' octo/api")
_add(queue, "queue --limit 100")
_add(doctor, "doctor --json")
_add(metrics, "metrics --by-app")
_add(retry, "retry 'Acme Search' octo/api --front")
_add(retry_all_failed, "retry-all-failed --error 502 --dry-run")
_add(resync, "resync 'Acme Search' octo/api")
_add(repair, "repair 'Acme Search' octo/api --dry-run")
_add(schedule, "schedule --dry-run")
_add(operations, "operations")
_add(progress, "progress bulk_0123456789abcdef --follow")
_add(wait, "wait bulk_0123456789abcdef --timeout 600")
_add(cancel, "cancel bulk_0123456789abcdef")
_add(pause, "pause --for 10m")
_add(resume, "resume")
_add(history, "history --no-schedule")
_add(worker, "worker")
_add(demo, "demo --keep")
_add(completion, "completion bash")
_add(show_help, "help exit-codes", name="help")


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"docora-ops {__version__}\n")
        raise typer.Exit


def _show_help(typer_context: typer.Context, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{typer_context.get_help()}\n")
        raise typer.Exit


# Typer's own --help has no default, and to convert "not given" Typer imports pydantic: the help of
# each command would load it.
@app.callback()
def _options(
    typer_context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
    wants_help: Annotated[
        bool,
        typer.Option(
            "--help",
            "-h",
            is_eager=True,
            callback=_show_help,
            help="Show this message and exit.",
        ),
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
    if os.environ.get(COMPLETE_VARIABLE):
        _prepare_completion()
    try:
        words = list(arguments) or ["--help"]
        code = app(words, standalone_mode=False, prog_name="docora-ops")
        return int(code or 0) if arguments else ExitCode.USAGE
    except typer.TyperException as error:
        return context.report(_usage_error(error))
    except DocoraOpsError as error:
        return context.report(error)
    except (typer.Abort, KeyboardInterrupt):
        return context.report(interruption())
    except Exception as error:  # noqa: BLE001 - a bug, which is reported
        return _report_bug(context, error)


def _prepare_completion() -> None:
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()  # tells Typer which shells there are
    # Ends the process, even within a call of libpq that waits for a name server.
    signal.alarm(_COMPLETION_SECONDS)


def _usage_error(error: typer.TyperException) -> UsageError:
    message = " ".join(error.format_message().replace(": Value error, ", ": ").split())
    context: typer.Context | None = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else 'docora-ops'} --help"
    if message.startswith("Got unexpected extra argument"):
        hint = f"quote names that contain spaces; see {hint}"
    return UsageError(message, hint=hint)


def _report_bug(context: Context, error: Exception) -> int:
    sentence = f"this is a bug in docora-ops {__version__}: {type(error).__name__}"
    if context.as_json and not Context.document_has_begun:
        context.show_document(None, BugError(sentence))
    # The place, but not the text of the exception or its causes, which may hold secrets.
    sys.stderr.write("".join(traceback.format_tb(error.__traceback__)))
    sys.stderr.write(f"Error: {sentence}\nHint: please report it with the lines above\n")
    return ExitCode.BUG
