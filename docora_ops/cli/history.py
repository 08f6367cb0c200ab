"""`history`. Needs only Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of


def history(
    typer_context: typer.Context,
    limit: Annotated[int, options.number(100_000, "At most so many.")] = 20,
    no_schedule: Annotated[
        bool, typer.Option("--no-schedule", help="Leave out the passes of the schedule.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show who changed what, when and why, the latest first.

    Only what was done with docora-ops: the dashboard keeps no such record.
    """
    context = context_of(typer_context)
    from docora_ops.queue import History
    from docora_ops.render import history as render

    found = History(context.redis).read(limit, schedule=not no_schedule)
    if found or as_json:
        context.show(render.document(found), [render.table(found, context.out.width)])
    else:
        context.say("No change is recorded.")
