"""The table of commands, and `run`, which runs one of them."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Annotated, Any

import typer
import typer.main

from docora_ops import __version__
from docora_ops.cli.app_url import set_url
from docora_ops.cli.audit_history import history
from docora_ops.cli.bulk_operations import cancel, operations
from docora_ops.cli.completion import COMPLETE_VARIABLE
from docora_ops.cli.context import Context
from docora_ops.cli.deliveries import deliveries
from docora_ops.cli.demo import demo
from docora_ops.cli.doctor import doctor
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.help import show_help
from docora_ops.cli.holds import hold, release
from docora_ops.cli.link_lists import apps, failed, links, show
from docora_ops.cli.many_links import retry_all_failed, schedule
from docora_ops.cli.metrics import metrics
from docora_ops.cli.one_link import retry
from docora_ops.cli.pauses import pause, resume
from docora_ops.cli.probe import probe
from docora_ops.cli.queue import queue
from docora_ops.cli.repairs import repair
from docora_ops.cli.report import report
from docora_ops.cli.resync import resync
from docora_ops.cli.status import status
from docora_ops.cli.terminal import guard_streams, interruptible, interruption
from docora_ops.cli.trend import trend
from docora_ops.cli.verification import verify
from docora_ops.cli.waiting import wait
from docora_ops.cli.worker import worker
from docora_ops.errors import BugError, DocoraOpsError, UsageError
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
_COMMANDS: Mapping[str, Sequence[tuple[Callable[..., object], str]]] = {
    "See the state": (
        (status, "status --json"),
        (failed, "failed --group-by error"),
        (links, "links --repo octo/api --status synced"),
        (apps, "apps --limit 10"),
        (show, "show 'Acme Search' octo/api"),
        (queue, "queue --limit 100"),
        (trend, "trend 'Acme Search' --since 12:00"),
        (doctor, "doctor --json"),
        (deliveries, "deliveries 'Acme Search' --since 12h"),
        (verify, "verify 'Acme Search'"),
        (probe, "probe 'Acme Search'"),
        (metrics, "metrics --by-app"),
    ),
    "Put links back to work": (
        (retry, "retry 'Acme Search' octo/api --front"),
        (retry_all_failed, "retry-all-failed --error 502 --dry-run"),
        (resync, "resync 'Acme Search' octo/api"),
        (repair, "repair 'Acme Search' octo/api --dry-run"),
        (schedule, "schedule --dry-run"),
        (set_url, "set-url 'Acme Search' https://new.example/hook --probe"),
    ),
    "Follow changes": (
        (operations, "operations bulk_0123456789abcdef --follow"),
        (wait, "wait bulk_0123456789abcdef --timeout 600"),
        (cancel, "cancel bulk_0123456789abcdef"),
        (history, "history --since 2h --no-schedule"),
        (report, "report --since 2h"),
    ),
    "Run and set up": (
        (pause, "pause --for 10m"),
        (resume, "resume"),
        (hold, "hold 'Acme Search' --for 2h --reason 'wrong URL'"),
        (release, "release 'Acme Search'"),
        (worker, "worker"),
        (demo, "demo --keep"),
        (show_help, "help exit-codes"),
    ),
}
for _commands in _COMMANDS.values():
    for _command, _example in _commands:
        app.command(_example.partition(" ")[0], epilog=f"Example: docora-ops {_example}")(_command)


# Replaces Typer's own --help, so that the help page has headings.
@app.callback(invoke_without_command=True)
def _options(
    typer_context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.")] = False,
    wants_help: Annotated[
        bool, typer.Option("--help", "-h", help="Show this message and exit.")
    ] = False,
) -> None:
    """Retry failed links of a Docora installation, and look after its snapshot queue."""
    if version:
        sys.stdout.write(f"docora-ops {__version__}\n")
    elif wants_help or typer_context.invoked_subcommand is None:
        page = typer_context.get_help()
        for heading, ((_, example), *_) in _COMMANDS.items():
            first = example.partition(" ")[0]
            page = page.replace(f"\n  {first} ", f"\n\n{heading}:\n  {first} ", 1)
        sys.stdout.write(page.replace("Commands:\n\n", "", 1) + "\n")
    else:
        return
    raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code. Raises SystemExit after a shell completion."""
    output = guard_streams()
    context = Context(arguments, as_json="--json" in takewhile("--".__ne__, arguments))
    code = ExitCode.OK if arguments else ExitCode.USAGE
    try:
        with interruptible():
            if os.environ.get(COMPLETE_VARIABLE):
                # Ends the process, even while libpq waits for a name server.
                signal.alarm(_COMPLETION_SECONDS)
                # Keeps Typer from wrapping help texts: the shell would offer each line as a value.
                os.environ["COLUMNS"] = "10000"
                # Typer's scripts would show errors.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                app(prog_name="docora-ops")
            group = typer.main.get_command(app)
            for option in group.params:  # to convert a missing default, Typer would import pydantic
                option.default = False
            with group.make_context("docora-ops", [*arguments], obj=context) as typer_context:
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
        hint = "please report it with the lines above"
        sys.stderr.write(f"Error: {sentence}\nHint: {hint}\n")
        code = ExitCode.BUG
        if context.as_json and not context.document_has_begun:
            with suppress(Exception):  # the bug may be in what prints
                context.show_document(None, BugError(sentence, hint=hint))
    sys.stdout.flush()
    if output.failure is not None and not isinstance(output.failure, BrokenPipeError):
        context.say(f"Error: the output can't be written: {output.failure.strerror}")
        code = code or ExitCode.PROBLEMS
    sys.stderr.flush()
    return code


def _usage_error(error: typer.TyperException, arguments: Sequence[str]) -> UsageError:
    message = " ".join(error.format_message().replace(": Value error, ", ": ").split())
    # Typer converts numbers with pydantic, whose messages lack the value.
    option_name, is_number, rule = message.partition(": Input should be ")
    cause: Any = error.__cause__
    if is_number and hasattr(cause, "errors"):
        value = str(cause.errors()[0]["input"])
        shown = "a URL" if "://" in value else repr(value[:100])  # a URL may have a password
        message = f"{option_name}: {shown} is not {rule.partition(', unable to parse ')[0]}"
    # After an unquoted name, a URL is left over as an extra argument.
    message = re.sub(r"\b\w+://[^\s)]+", lambda match: mask_url(match[0]), message)
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is None:  # an option lacks its value, or has one too many
        words = takewhile(lambda word: not word.startswith("-"), arguments[:1])
        return UsageError(message, hint=" ".join(["docora-ops", *words, "--help"]))
    see_help = f"{context.command_path} --help"
    option = getattr(error, "option_name", "")
    if option and context.parent is None:
        hint = f"options go after the command: docora-ops COMMAND {option}; see {see_help}"
    elif message.startswith("Got unexpected extra argument"):
        hint = f"quote names that contain spaces; see {see_help}"
    elif context.info_name == "retry" and message == "Missing argument 'REPO'.":
        hint = "for all failed links of an app: docora-ops retry-all-failed --app APP"
    else:
        hint = see_help
    return UsageError(message, hint=hint)
