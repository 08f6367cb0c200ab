"""The table of commands, and `run`, which runs one of them."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Annotated

import typer
import typer.main

from docora_ops import __version__
from docora_ops.cli.completion import COMPLETE_VARIABLE
from docora_ops.cli.context import Context
from docora_ops.cli.demo import demo
from docora_ops.cli.doctor import doctor
from docora_ops.cli.help import show_help
from docora_ops.cli.links import failed, links
from docora_ops.cli.metrics import metrics
from docora_ops.cli.operations import cancel, operations
from docora_ops.cli.repair import repair
from docora_ops.cli.resync import resync
from docora_ops.cli.retry import retry, retry_all_failed
from docora_ops.cli.schedule import schedule
from docora_ops.cli.show import show
from docora_ops.cli.status import status
from docora_ops.cli.terminal import guard_streams, interruptible, interruption
from docora_ops.cli.verify import verify
from docora_ops.cli.worker import worker
from docora_ops.errors import BugError, DocoraOpsError, ExitCode, UsageError
from docora_ops.text import mask_url

_COMPLETION_SECONDS = 2

# Help is plain text: for rich's markup, Typer would import a Markdown reader and a syntax
# highlighter, which takes longer than the rest of a help page.
app = typer.Typer(
    name="docora-ops",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Example: docora-ops retry 'Acme Search' octo/api",
)

# In the order of the help page. The docstring of a command is its help.
COMMANDS: Mapping[str, Sequence[tuple[Callable[..., object], str]]] = {
    "See": (
        (status, "status --watch"),
        (failed, "failed --group-by error"),
        (links, "links --repo octo/api --status synced"),
        (show, "show 'Acme Search' octo/api"),
        (doctor, "doctor --json"),
        (verify, "verify 'Acme Search'"),
        (metrics, "metrics --by-app"),
    ),
    "Change": (
        (retry, "retry 'Acme Search' octo/api --wait"),
        (retry_all_failed, "retry-all-failed --error 502 --dry-run"),
        (resync, "resync 'Acme Search' octo/api --update"),
        (repair, "repair --dry-run"),
    ),
    "Follow": (
        (operations, "operations bulk_0123456789abcdef --follow"),
        (cancel, "cancel bulk_0123456789abcdef"),
    ),
    "Run": (
        (schedule, "schedule --repeat"),
        (worker, "worker --concurrency 2"),
        (demo, "demo --keep"),
        (show_help, "help exit-codes"),
    ),
}
for _commands in COMMANDS.values():
    for _command, _example in _commands:
        app.command(_example.partition(" ")[0], epilog=f"Example: docora-ops {_example}")(_command)


def _show_help(typer_context: typer.Context, wants_help: bool) -> None:
    if wants_help:
        page = typer_context.get_help()
        for heading, ((_, example), *_) in COMMANDS.items():
            first = example.partition(" ")[0]
            page = page.replace(f"\n  {first} ", f"\n\n{heading}:\n  {first} ", 1)
        sys.stdout.write(page.replace("Commands:\n\n", "", 1) + "\n")
        raise typer.Exit


def _show_version(wants_version: bool) -> None:
    if wants_version:
        sys.stdout.write(f"docora-ops {__version__}\n")
        raise typer.Exit


# Replaces Typer's own --help, so that the help page has headings. Eager, so that Typer does not
# import pydantic for the other options first.
@app.callback(invoke_without_command=True)
def _options(
    typer_context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Show the version.", is_eager=True, callback=_show_version
        ),
    ] = False,
    wants_help: Annotated[
        bool,
        typer.Option(
            *("--help", "-h"),
            help="Show this message and exit.",
            is_eager=True,
            callback=_show_help,
        ),
    ] = False,
) -> None:
    """Retry failed links of a Docora installation, and look after its snapshot queue."""
    if typer_context.invoked_subcommand is None:
        _show_help(typer_context, wants_help=True)


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code. Raises SystemExit after a shell completion."""
    output = guard_streams()
    context = Context(as_json="--json" in takewhile("--".__ne__, arguments))
    code: int = ExitCode.OK if arguments else ExitCode.USAGE
    try:
        with interruptible():
            if os.environ.get(COMPLETE_VARIABLE):
                # Ends the process, even while libpq waits for a name server.
                signal.alarm(_COMPLETION_SECONDS)
                app(prog_name="docora-ops")
            group = typer.main.get_command(app)
            with group.make_context("docora-ops", [*arguments], obj=context) as typer_context:
                typer_context.call_on_close(context.close)
                code = group.invoke(typer_context) or code
    except typer.Exit:
        pass
    except typer.TyperException as error:
        code = context.report(_usage_error(error, arguments))
    except DocoraOpsError as error:
        code = context.report(error)
    except KeyboardInterrupt:
        code = context.report(interruption())
    except Exception as error:  # noqa: BLE001 - a bug, which is reported
        # The stack, but not the texts of the exception and its causes, which may contain secrets.
        sys.stderr.write("".join(traceback.format_tb(error.__traceback__)))
        sentence = f"this is a bug in docora-ops {__version__}: {type(error).__name__}"
        bug = BugError(sentence, hint="please report it with the lines above")
        code = context.report(bug)
    sys.stdout.flush()
    if output.failure is not None and not isinstance(output.failure, BrokenPipeError):
        context.say(f"Error: the output can't be written: {output.failure.strerror}")
        code = code or ExitCode.PROBLEMS
    sys.stderr.flush()
    return code


def _usage_error(error: typer.TyperException, arguments: Sequence[str]) -> UsageError:
    message = " ".join(error.format_message().replace(": Value error, ", ": ").split())
    # After an unquoted name, a URL is left over as an extra argument.
    message = re.sub(r"\b\w+://[^\s)]+", lambda match: mask_url(match[0]), message)
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is None:  # an option lacks its value, or has one too many
        words = takewhile(lambda word: not word.startswith("-"), arguments[:1])
        return UsageError(message, hint=" ".join(["docora-ops", *words, "--help"]))
    hint = f"{context.command_path} --help"
    if message.startswith("Got unexpected extra argument"):
        hint = f"quote names that contain spaces; see {hint}"
    elif context.info_name == "retry" and message == "Missing argument 'REPO'.":
        hint = "for all failed links of an app: docora-ops retry-all-failed --app APP"
    return UsageError(message, hint=hint)
