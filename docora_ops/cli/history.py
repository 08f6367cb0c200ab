"""`history`. Needs only Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of


def history(
    typer_context: typer.Context,
    limit: options.Limit = 20,
    page: options.PageNumber = 1,
    no_schedule: Annotated[
        bool, typer.Option("--no-schedule", help="Leave out the passes of the schedule.")
    ] = False,
    as_json: options.Json = False,
) -> int:
    """Show who changed what, when and why, the latest first.

    Only what was done with docora-ops: the dashboard keeps no such record.
    """
    context = context_of(typer_context)
    from docora_ops.cli.pages import show_page
    from docora_ops.pages import page_of
    from docora_ops.queue import History
    from docora_ops.render.operation_view import history_list
    from docora_ops.text import amount

    entries = History(context.redis).read(schedule=not no_schedule)
    found = page_of(entries, page, limit)
    return show_page(
        context,
        found,
        history_list(found.rows),
        where=context.redis_server,
        counted=amount(found.total, "change"),
        nothing="no change is recorded",
    )
