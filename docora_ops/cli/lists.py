"""`links`, `failed`, `apps` and `show`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of, link_choice
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.errors import UsageError
from docora_ops.link_lists import LinkGroup, LinkSort
from docora_ops.links import LinkStatus

Sort = Annotated[
    LinkSort,
    typer.Option(
        metavar="ORDER",
        help="Sort by app (app id, then repository id), error, retries (most first), last-scan "
        "(never scanned first, then oldest first) or overdue (longest without a good scan first). "
        "Groups are sorted by size.",
    ),
]
Overdue = Annotated[
    bool,
    typer.Option("--overdue", help="Only links in sync that have not been scanned for too long."),
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
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    overdue: Overdue = False,
    sort: Sort = LinkSort.APP,
    group_by: GroupBy = None,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """List links and the state of their jobs.

    Values of the same option are alternatives; different options must all match. Changes nothing.
    """
    if overdue and status and not {LinkStatus.SYNCED, LinkStatus.PENDING_SNAPSHOT} & set(status):
        raise UsageError(
            "--overdue finds nothing with this --status: failed and scanning links are never "
            "overdue",
            hint="docora-ops help links",
        )
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
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    sort: Sort = LinkSort.APP,
    group_by: GroupBy = None,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """List failed links and the state of their jobs.

    Short for `links --status failed`: `docora-ops help links` explains the columns and options.
    Changes nothing.
    """
    return _show(typer_context, [LinkStatus.FAILED], "failed link")


def _show(typer_context: typer.Context, statuses: Sequence[LinkStatus], noun: str) -> int:
    """Shows a page of the links, or of their groups, by the options of the command."""
    context, given = context_of(typer_context), typer_context.params
    from docora_ops.actions import reading
    from docora_ops.actions.lookup import LinkChoice
    from docora_ops.render.link_view import FAILED, LINKS, OVERDUE, group_columns

    docora, choice = context.docora, link_choice(typer_context, statuses)
    if choice != LinkChoice(statuses=statuses) or given.get("status"):
        noun = f"matching {noun}"
    pages: dict[str, int] = {name: given[name] for name in ("page", "limit")}
    if group := given["group_by"]:
        groups = reading.link_groups(docora, group, choice, **pages)
        columns = group_columns(group, of_failed=statuses == [LinkStatus.FAILED])
        context.show_page(groups, columns, docora.postgres_server, "group")
        return ExitCode.OK
    found, lost = reading.links(docora, choice, sort=given["sort"], **pages)
    columns = LINKS
    if statuses == [LinkStatus.FAILED]:
        columns = FAILED
    elif given.get("overdue") or choice.last_scan_before or choice.last_scan_after:
        columns = OVERDUE
    if len(statuses) == 1:  # it need not be shown
        columns = [each for each in columns if each.name != "Status"]
    context.show_page(found, columns, docora.servers, noun, lost)
    return context.report(lost) if lost else ExitCode.OK


def apps(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> None:
    """List apps, or one app, most failed links first.

    Shows the links of each app by status, the last successful scan and the URL. With a filter,
    counts only matching links. Needs only Postgres. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.lookup import LinkChoice
    from docora_ops.actions.reading import apps
    from docora_ops.render.link_view import APPS

    choice = replace(link_choice(typer_context), apps=(app,) if app else ())
    noun = "app" if choice == LinkChoice(apps=choice.apps) else "matching app"
    found = apps(context.docora, choice, page=page, limit=limit)
    context.show_page(found, APPS, context.docora.postgres_server, noun)


def show(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    files: Annotated[
        bool,
        typer.Option(
            "--files", help="List the delivered files instead: path, SHA-256, and when delivered."
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=10_000, help="Files per page, 50 by default."),
    ] = None,
    page: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=10**9, help="Page of files to show.")
    ] = None,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> None:
    """Show everything about one link.

    Shows its status, error, circuit and deliveries, and the place and last failure of its job.
    Changes nothing.
    """
    context = context_of(typer_context)
    if not files and (limit or page):
        raise UsageError("--limit and --page need --files", hint="add --files")
    from docora_ops.actions.reading import files as read_files
    from docora_ops.actions.reading import show
    from docora_ops.render.link_view import FILES, link_screen

    if files:
        found = read_files(context.docora, app, repo, page=page or 1, limit=limit or 50)
        context.show_page(found, FILES, context.docora.postgres_server, "delivered file")
        return
    details = show(context.docora, app, repo)
    context.show(details, [link_screen(details)])
