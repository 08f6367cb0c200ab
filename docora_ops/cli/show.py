"""`show`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of


def show(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    full: Annotated[
        bool,
        typer.Option("--full", help="Show every line of the last failure, not just the error."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show everything about one link: status, error, circuit, what was delivered, its job.

    The job in every place of the queue where it stands, with its last failure. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.show import link_details
    from docora_ops.render.link_view import link_screen

    details = link_details(context.database, context.queue_to_read(), app, repo)
    context.warn_of_wrong_backend()
    context.show(details, [link_screen(details, full=full)])
