"""`doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode


def doctor(
    typer_context: typer.Context,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show every check, also those that are ok.")
    ] = False,
    max_failed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=10**9,
            help="Fail with exit code 6 if more than N links have failed.",
        ),
    ] = None,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            help="For monitoring: expect a role and a user that may only read, and try no write.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> int:
    """Check the settings, both servers, the queue, the links, and whether queue and links agree.

    Changes nothing, and says what to do about each problem, the worst one last. Mismatches are
    checked twice, some seconds apart, so that normal activity does not count.
    """
    context = context_of(typer_context)
    from docora_ops.actions.doctor.diagnose import diagnose
    from docora_ops.diagnosis import CheckState
    from docora_ops.render import drift_view
    from docora_ops.text import amount

    def before_second_look(suspects: int) -> None:
        if seconds := context.settings.drift_grace:
            found = amount(suspects, "mismatch", "mismatches")
            context.say(f"{found} at first check: checking again in {seconds} s.")

    def on_wait(servers: Sequence[str]) -> None:
        if not as_json:
            context.say(f"Waiting for {' and '.join(servers)}.")

    context.collect_garbage()
    diagnosis = diagnose(
        context.env_file, before_second_look, on_wait, max_failed=max_failed, read_only=read_only
    )
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
