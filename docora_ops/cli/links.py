"""`links` and `failed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.errors import UsageError
from docora_ops.link_lists import LinkGroup, LinkSort
from docora_ops.links import LinkStatus
from docora_ops.pages import Page

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

_NOUNS = {
    LinkGroup.APP: ("app", "apps"),
    LinkGroup.REPOSITORY: ("repository", "repositories"),
    LinkGroup.STATUS: ("status", "statuses"),
    LinkGroup.ERROR: ("different error", "different errors"),
}


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
    given = typer_context.params
    source = typer_context.get_parameter_source("sort")
    if given["group_by"] and source and source.name == "COMMANDLINE":
        raise UsageError(
            "--sort and --group-by can't be combined: the largest groups come first",
            hint="remove one of them",
        )
    from docora_ops.render.columns import Listing
    from docora_ops.render.link_view import LINKS, group_list
    from docora_ops.text import amount

    docora, choice = context.docora, options.link_choice(typer_context, statuses)
    pages: dict[str, int] = {name: given[name] for name in ("page", "limit")}
    found: Page[Any]
    if group := given["group_by"]:
        found, lost = actions.link_groups(docora, group, choice, **pages), None
        shown = group_list(group, found.rows)
        nouns, where = _NOUNS[group], docora.database.place
    else:
        found, lost = actions.links(docora, choice, sort=given["sort"], **pages)
        # Where all links have the same status, it need not be shown.
        columns = [each for each in LINKS if len(statuses) != 1 or each.name != "Status"]
        shown = Listing(columns, found.rows)
        nouns, where = (noun, f"{noun}s"), docora.servers
    is_narrowed = options.link_choice(typer_context) != actions.LinkChoice() or given.get("status")
    return context.show_page(
        found,
        shown,
        where=where,
        counted=amount(found.total, *nouns),
        nothing=f"no {noun} matches" if is_narrowed else f"no {noun}s",
        lost=lost,
    )
