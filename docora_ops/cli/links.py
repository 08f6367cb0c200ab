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
        help="Sort by app (app id, then repository id), error, retries (most first) or last-scan "
        "(never scanned first, then oldest first).",
    ),
]
GroupBy = Annotated[
    LinkGroup | None,
    typer.Option(
        metavar="FIELD",
        help="Count links by app, repository, status or error (ignoring paths, numbers and ids).",
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
    env_file: options.EnvFile = None,
) -> int:
    """List links and the state of their jobs.

    Values of the same option are alternatives; different options must all match. Changes nothing.
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
    env_file: options.EnvFile = None,
) -> int:
    """List failed links and the state of their jobs.

    Short for `links --status failed`: `docora-ops help links` explains the columns and options.
    Changes nothing.
    """
    return _show(typer_context, [LinkStatus.FAILED], "failed link")


def _show(typer_context: typer.Context, statuses: Sequence[LinkStatus], noun: str) -> int:
    """Shows a page of the links, or of their groups, by the options of the command."""
    context = context_of(typer_context)
    source = typer_context.get_parameter_source("sort")
    if typer_context.params["group_by"] and source and source.name == "COMMANDLINE":
        raise UsageError(
            "--sort and --group-by can't be combined: the largest groups come first",
            hint="remove one of them",
        )
    from docora_ops.actions import links as actions
    from docora_ops.cli.pages import show_page
    from docora_ops.render import links as render
    from docora_ops.text import amount

    typed, database = typer_context.params, context.database
    which, choice = options.chosen_links(typer_context, database, statuses)
    page = (typed["page"], typed["limit"])
    counted = (noun, f"{noun}s")
    where = lost = None
    found: Any
    match typed["group_by"]:
        case LinkGroup.APP:
            found = actions.count_by_app(database, which, *page)
            table, counted = render.apps_table(found), ("app", "apps")
        case LinkGroup.REPOSITORY:
            found = actions.count_by_repository(database, which, *page)
            table, counted = render.repositories_table(found), ("repository", "repositories")
        case LinkGroup.STATUS:
            found = actions.count_by_status(database, which, *page)
            table, counted = render.statuses_table(found), ("status", "statuses")
        case LinkGroup.ERROR:
            found = actions.count_by_error(database, which, *page)
            table, counted = render.errors_table(found), ("different error", "different errors")
        case _:
            open_queue, redis_server = context.queue_to_read, context.redis_server
            found, lost = actions.list_links(database, open_queue, which, typed["sort"], *page)
            where = f"{database.place}, {redis_server}"
            if not lost:
                context.warn_of_wrong_backend()
            table = render.links_table(found, context.out.width, with_status=len(statuses) != 1)
    is_narrowed = any(choice.values()) or typed.get("status")
    return show_page(
        context,
        found,
        table,
        where=where or database.place,
        counted=amount(found.total, *counted),
        nothing=f"no {noun} matches" if is_narrowed else f"no {noun}s",
        lost=lost,
    )
