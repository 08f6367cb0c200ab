"""`verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from docora_ops.verification import Verification


def verify(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 6 also if a link is uncertain.")
    ] = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Compare what was delivered with the stored commits.

    Compares the delivery records of all links, of one app, or of one link with the stored commit of
    the repository, by path and SHA-256. Lists links with missing, outdated or extra files (exit
    code 6), and those where it is uncertain because the commit may be newer than their last scan.
    Only what differs in two looks, some seconds apart, counts. Needs only Postgres. Changes
    nothing.
    """
    context = context_of(typer_context)
    from docora_ops.render import verify_view as render

    found = compare(context, app, repo)
    if context.as_json:
        context.show_document(found)
        context.say(render.summary(found))
    else:
        context.show_tables(render.verify_screens(found), context.target_line, paged=True)
    context.say(render.LIMITS)
    is_problem = found.differing or (strict and found.uncertain)
    return ExitCode.PROBLEMS if is_problem else ExitCode.OK


def compare(context: Context, app: str | None = None, repo: str | None = None) -> Verification:
    """Verifies links, and shows how far it is."""
    from docora_ops.actions.find_drift import Suspects
    from docora_ops.actions.verifying import verify
    from docora_ops.render.console import progress_bar
    from docora_ops.verification import Verification

    events = verify(context.docora, app, repo)
    _ = context.docora.database  # unusable settings are told before anything moves
    with progress_bar(None, "comparing") as move:
        for event in context.telling_of_second_look(events, "link differs", "links differ"):
            if isinstance(event, Verification):
                found = event
            elif not isinstance(event, Suspects):
                move(event.links, None, event.total)
    return found
