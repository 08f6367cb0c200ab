"""`apps`. Needs only Postgres."""

from __future__ import annotations

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import context_of


def apps(
    typer_context: typer.Context,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """List apps, most failed links first.

    Shows the links of each app by status, the last successful scan and the URL. Needs only
    Postgres. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.render.columns import Listing
    from docora_ops.render.link_view import APPS
    from docora_ops.text import amount

    found = actions.apps(context.docora, page=page, limit=limit)
    return context.show_page(
        found,
        Listing(APPS, found.rows),
        where=context.docora.database.place,
        counted=amount(found.total, "app"),
        nothing="no apps",
    )
