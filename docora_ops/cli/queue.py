"""`queue`. Needs only Redis."""

from typing import Annotated

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import context_of


def queue(
    typer_context: typer.Context,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Show at most N jobs.")
    ] = 20,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Show the queue, its workers and the first jobs.

    Needs only Redis. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.render.queue_view import queue_screens

    overview = actions.queue(context.docora, limit)
    context.show(overview, queue_screens(overview, limit))
