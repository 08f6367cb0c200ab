"""`apps`. Needs only Postgres."""

from __future__ import annotations

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of


def apps(
    typer_context: typer.Context,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
) -> int:
    """Show the apps: their links by status, the last good scan, the URL; most failed links first.

    Needs only Postgres. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.links import list_apps
    from docora_ops.cli.pages import show_page
    from docora_ops.render.link_view import apps_list
    from docora_ops.text import amount

    found = list_apps(context.database, page, limit)
    return show_page(
        context,
        found,
        apps_list(found.rows),
        where=context.database.place,
        counted=amount(found.total, "app"),
        nothing="no apps",
    )
