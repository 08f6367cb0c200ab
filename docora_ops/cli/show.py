"""`show`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import context_of


def show(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    full: Annotated[
        bool,
        typer.Option("--full", help="Show the whole traceback of the last failure."),
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Show everything about one link.

    Shows its status, error, circuit, deliveries, and its job: where it stands in the queue, and its
    last failure. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.render.link_view import link_screen

    details = actions.show(context.docora, app, repo)
    context.show(details, [link_screen(details, full=full)])
