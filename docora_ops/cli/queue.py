"""`queue`. Needs only Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of


def queue(
    typer_context: typer.Context,
    limit: Annotated[int, options.number(10_000, "At most so many jobs.")] = 20,
    as_json: options.Json = False,
) -> None:
    """Show the queue: counts, workers and what they do, scheduler, the first jobs.

    Needs only Redis. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.jobs import Backend
    from docora_ops.render.queue_view import queue_screens

    context.count_workers()
    overview = context.queue.overview(limit)
    is_rq = overview.backend is Backend.RQ
    if is_rq and overview.delayed and overview.scheduler is None:
        context.warn(
            "Warning: no scheduler runs: delayed jobs wait until a worker with one is started"
        )
    context.show(overview, queue_screens(overview, limit))
