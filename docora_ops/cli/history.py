"""`history`. Needs only Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import context_of


def history(
    typer_context: typer.Context,
    limit: options.Limit = 20,
    page: options.PageNumber = 1,
    no_schedule: Annotated[
        bool, typer.Option("--no-schedule", help="Exclude the passes of schedule.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Show who changed what, when and why, latest first.

    Only changes made with docora-ops are recorded, not those of the dashboard.
    """
    context = context_of(typer_context)
    from docora_ops.render.bulk_view import HISTORY
    from docora_ops.render.columns import Listing
    from docora_ops.text import amount

    found = actions.history(context.docora, schedule=not no_schedule, page=page, limit=limit)
    return context.show_page(
        found,
        Listing(HISTORY, found.rows),
        where=context.docora.redis_server,
        counted=amount(found.total, "change"),
        nothing="no change is recorded",
    )
