"""`links` and `failed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.errors import UsageError
from docora_ops.link_lists import LinkGroup, LinkSort
from docora_ops.links import LinkStatus

Sort = Annotated[
    LinkSort,
    typer.Option(
        metavar="ORDER",
        help="By app (app id, then repository id), error, retries (most first) or last-scan "
        "(never scanned, then longest ago, first).",
    ),
]
GroupBy = Annotated[
    LinkGroup | None,
    typer.Option(
        metavar="FIELD",
        help="Count the links by app, repository, status, or error, whatever paths, numbers and "
        "ids it names.",
    ),
]


def links(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    status: options.Statuses = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    no_error: options.NoError = False,
    circuit: options.CircuitFilter = None,
    sort: Sort = LinkSort.APP,
    group_by: GroupBy = None,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
) -> int:
    """Show links of any status, and whether a job is at work on them.

    Several values of one option choose links with any of them; different options must all be
    met. Changes nothing.
    """
    return _show(typer_context, status or [], "link")


def failed(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    no_error: options.NoError = False,
    circuit: options.CircuitFilter = None,
    sort: Sort = LinkSort.APP,
    group_by: GroupBy = None,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
) -> int:
    """Show the failed links, and whether a job is at work on them: `links --status failed`.

    In the order of app id, then repository id: when a link failed is not recorded.
    `docora-ops help links` explains the columns and options. Changes nothing.
    """
    return _show(typer_context, [LinkStatus.FAILED], "failed link")


def _show(typer_context: typer.Context, statuses: Sequence[LinkStatus], noun: str) -> int:
    """Shows a page of the links, or of their groups, by the options of the command."""
    context = context_of(typer_context)
    source = typer_context.get_parameter_source("sort")
    if typer_context.params["group_by"] and source and source.name == "COMMANDLINE":
        raise UsageError(
            "--sort and --group-by exclude each other: groups come with most links first",
            hint="leave out one of them",
        )
    from docora_ops.actions import links as actions
    from docora_ops.cli.pages import show_page
    from docora_ops.render import link_view
    from docora_ops.text import amount

    typed, database = typer_context.params, context.database
    which, choice = options.chosen_links(typer_context, database, statuses)
    page = (typed["page"], typed["limit"])
    counted = (noun, f"{noun}s")
    where = lost = None
    found: Any
    match typed["group_by"]:
        case LinkGroup.APP:
            found, counted = actions.count_by_app(database, which, *page), ("app", "apps")
        case LinkGroup.REPOSITORY:
            found = actions.count_by_repository(database, which, *page)
            counted = ("repository", "repositories")
        case LinkGroup.STATUS:
            found, counted = actions.count_by_status(database, which, *page), ("status", "statuses")
        case LinkGroup.ERROR:
            found = actions.count_by_error(database, which, *page)
            counted = ("different error", "different errors")
        case _:
            open_queue, redis_server = context.queue_to_read, context.redis_server
            found, lost = actions.list_links(database, open_queue, which, typed["sort"], *page)
            where = f"{database.place}, {redis_server}"
            if not lost:
                context.warn_of_wrong_backend()
    if group := typed["group_by"]:
        shown = link_view.group_list(group, found.rows)
    else:
        shown = link_view.links_list(found.rows, with_status=len(statuses) != 1)
    is_narrowed = any(choice.values()) or typed.get("status")
    return show_page(
        context,
        found,
        shown,
        where=where or database.place,
        counted=amount(found.total, *counted),
        nothing=f"no {noun} matches" if is_narrowed else f"no {noun}s",
        lost=lost,
    )
