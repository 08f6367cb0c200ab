"""`doctor`."""

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode


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
    from docora_ops.actions.diagnose import WaitingFor, diagnose
    from docora_ops.actions.find_drift import Suspects
    from docora_ops.diagnosis import CheckState, Diagnosis
    from docora_ops.render import drift_view
    from docora_ops.text import amount

    context.collect_garbage()
    delay = context.docora.settings.drift_grace
    said: set[type] = set()
    for event in diagnose(context.docora.settings, max_failed=max_failed, read_only=read_only):
        if isinstance(event, Diagnosis):
            diagnosis = event
        elif type(event) in said:
            continue
        elif isinstance(event, Suspects) and delay:
            found = amount(event.count, "mismatch", "mismatches")
            context.say(f"{found} at first check: checking again in {delay} s.")
        elif isinstance(event, WaitingFor) and not as_json:
            context.say(f"Waiting for {' and '.join(event.servers)}.")
        said.add(type(event))
    # Where it is unclear, the check of the workers says so.
    if diagnosis.backend and diagnosis.backend.is_clear and diagnosis.backend.sentence:
        context.say(diagnosis.backend.sentence)
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
