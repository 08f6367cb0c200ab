"""`doctor`."""

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode

_PATIENCE = 8  # seconds for an answer of a server


def doctor(
    typer_context: typer.Context,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show all checks, including those that are ok.")
    ] = False,
    max_failed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=10**9,
            help="Exit with code 6 if more than N links have failed.",
        ),
    ] = None,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            help="Expect credentials that can only read (for monitoring), and try no write.",
        ),
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Check settings, servers, queue and links.

    Says what to do about each problem, the worst one last. Mismatches between database and queue
    are checked twice, some seconds apart, so that normal activity does not count. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.diagnose import diagnose
    from docora_ops.diagnosis import CheckState, Diagnosis
    from docora_ops.render import drift_view
    from docora_ops.text import amount

    context.collect_garbage()
    docora, has_told = context.docora, False
    docora.settings = docora.settings.hurried(_PATIENCE)
    delay = docora.settings.drift_grace
    for event in diagnose(docora, max_failed=max_failed, read_only=read_only):
        if isinstance(event, Diagnosis):
            diagnosis = event
        elif delay and not has_told:
            found = amount(event.count, "mismatch", "mismatches")
            context.say(f"{found} at first check: checking again in {delay} s.")
            has_told = True
    context.tell()
    if as_json:
        context.show_document(drift_view.doctor_data(diagnosis))
        context.say(drift_view.summary(diagnosis))
    else:
        # Not paged: the worst comes last, and a pager shows the beginning.
        screen = drift_view.doctor_screens(diagnosis, show_all=show_all)
        context.show_tables(screen, is_last=show_all)
    if diagnosis.misconfigured:
        return ExitCode.USAGE
    if diagnosis.server_lost:
        return ExitCode.SERVER
    return ExitCode.PROBLEMS if diagnosis.state is CheckState.CRITICAL else ExitCode.OK
