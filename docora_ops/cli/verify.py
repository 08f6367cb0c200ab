"""`verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Compare what was delivered with the stored commits.

    Compares the delivery records of all links, of one app, or of one link with the stored commit of
    the repository, by path and SHA-256. Lists links with missing, outdated or extra files (exit
    code 6). Only what differs in two looks, some seconds apart, counts. Needs only Postgres.
    Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.render import verify_view as render

    found = compare(context, app, repo)
    if context.as_json:
        context.show_document(found)
        context.say(render.summary(found))
    else:
        context.show_tables(render.verify_screens(found), paged=True)
    context.say(render.LIMITS)
    return ExitCode.PROBLEMS if found.differing else ExitCode.OK


def compare(context: Context, app: str | None = None, repo: str | None = None) -> Verification:
    """Verifies links, and shows how far it is."""
    from docora_ops.actions.find_drift import Suspects
    from docora_ops.actions.verifying import verify
    from docora_ops.render.console import progress_bar
    from docora_ops.text import amount
    from docora_ops.verification import Verification

    docora, has_told = context.docora, False
    with progress_bar(None, "comparing") as move:
        for event in verify(docora, app, repo):
            if isinstance(event, Verification):
                found = event
            elif not isinstance(event, Suspects):
                move(event.links, None, event.total)
            elif not has_told and docora.settings.drift_grace:
                has_told = True
                differ = amount(event.count, "link differs", "links differ")
                context.say(
                    f"{differ} at first look: looking again in {docora.settings.drift_grace} s."
                )
    return found
