"""`queue`. Needs only Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.options import JsonOption


def queue(
    typer_context: typer.Context,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="N", min=1, max=10_000, help="At most so many jobs."),
    ] = 20,
    as_json: JsonOption = False,
) -> int:
    """Show the queue: counts, workers and what they do, scheduler, the first jobs.

    Needs only Redis. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.surroundings import look_around, queue_overview
    from docora_ops.render import queue as render

    surroundings = look_around(context.queue)
    overview = queue_overview(context.queue_reader, limit)
    context.warn(surroundings)
    if overview.delayed and overview.scheduler is None:
        context.say(
            "Warning: no scheduler runs: delayed jobs wait until a worker with one is started",
            style="yellow",
        )
    if as_json:
        context.show_document(render.document(overview))
    else:
        context.show(*render.tables(overview, context.out.width))
    return ExitCode.OK
