"""`failed`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of


class GroupBy(StrEnum):
    """The fields that failed links can be counted by."""

    APP = "app"
    ERROR = "error"


def failed(
    typer_context: typer.Context,
    app: options.AppFilter = None,
    error: options.ErrorFilter = None,
    limit: Annotated[int, options.number(10_000, "Rows of a page.")] = 50,
    page: Annotated[int, options.number(10**9, "Which page.")] = 1,
    group_by: Annotated[
        GroupBy | None,
        typer.Option(
            help="Count the links by app, or by error, whatever paths, numbers and ids it names."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show the failed links, and whether a job is at work on them.

    In the order of app id, then repository id, as `retry-all-failed` takes them: when a link
    failed is not recorded. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions import failed as actions
    from docora_ops.actions.lookup import resolve_app
    from docora_ops.links import FailedFilter
    from docora_ops.render import failed as render
    from docora_ops.render.cells import amount

    app_id = None if app is None else resolve_app(context.database, app).app_id
    which = FailedFilter(app_id, error)
    found: Any
    if group_by is GroupBy.APP:
        found = actions.failed_links_by_app(context.database, which, page, limit)
        table = render.apps_table(found)
        noun = "app"
    elif group_by is GroupBy.ERROR:
        found = actions.failed_links_by_error(context.database, which, page, limit)
        table = render.errors_table(found)
        noun = "different error"
    else:
        found = actions.failed_links(context.database, context.queue, which, page, limit)
        table = render.links_table(found, context.out.width)
        noun = "failed link"
    if found.rows or as_json:
        context.show(render.document(found), [table])
    if found.total:
        count = f"{amount(found.total, noun)}, page {found.number} of {found.pages}"
    else:
        count = "no failed links" if app is None and error is None else "no failed link matches"
    where = context.database.target if group_by else context.servers
    context.say(f"{where}: {count}.")
