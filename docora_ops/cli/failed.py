"""`failed`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from docora_ops.cli.context import Context, context_of, require_text
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.options import AppOption, ErrorOption, JsonOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from docora_ops.failed_links import Page
    from docora_ops.render.documents import Document


class GroupBy(StrEnum):
    """What failed links can be counted by."""

    APP = "app"
    ERROR = "error"


def failed(
    typer_context: typer.Context,
    app: AppOption = None,
    error: ErrorOption = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="Rows of a page.")
    ] = 50,
    page: Annotated[
        int, typer.Option("--page", metavar="N", min=1, max=10**9, help="Which page.")
    ] = 1,
    group_by: Annotated[
        GroupBy | None,
        typer.Option(
            "--group-by",
            show_default=False,
            help="Count the links by app, or by error, whatever paths, numbers and ids it names.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show the failed links, and whether a job is at work on them.

    In the order of app id, then repository id, as `retry-all-failed` takes them: when a link
    failed is not recorded. Changes nothing.
    """
    context = context_of(typer_context)
    require_text("--app", app)
    require_text("--error", error)
    from docora_ops.actions import failed as actions
    from docora_ops.render import view_documents, view_tables

    found: Page[Any]
    document: Document
    tables: Iterable[RenderableType]
    choice: dict[str, Any] = {"app": app, "error": error, "page": page, "limit": limit}
    if group_by is GroupBy.APP:
        found = actions.failed_links_by_app(context.database, **choice)
        document, tables = view_documents.failed_by_app(found), [view_tables.failed_by_app(found)]
    elif group_by is GroupBy.ERROR:
        found = actions.failed_links_by_error(context.database, **choice)
        document = view_documents.failed_by_error(found)
        tables = [view_tables.failed_by_error(found)]
    else:
        found = actions.failed_links(context.database, context.queue, **choice)
        document = view_documents.failed(found)
        tables = view_tables.failed(found, context.out.width)
    if as_json:
        context.show_document(document)
    elif found.rows:
        context.show(*tables)
    _say_how_many(context, found, group_by, filtered=app is not None or error is not None)
    return ExitCode.OK


def _say_how_many(
    context: Context, page: Page[Any], group_by: GroupBy | None, *, filtered: bool
) -> None:
    from docora_ops.render.tables import amount

    where = context.database.target if group_by else context.servers
    if not page.total:
        context.say("{}: no failed link{}.", where, " matches" if filtered else "s")
        return
    noun = {None: "failed link", GroupBy.APP: "app", GroupBy.ERROR: "different error"}[group_by]
    context.say("{}: {}, page {} of {}.", where, amount(page.total, noun), page.number, page.pages)
