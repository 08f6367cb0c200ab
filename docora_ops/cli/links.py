"""`links` and `failed`."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.output import Column, style_of
from docora_ops.error_groups import with_reason_first
from docora_ops.errors import UsageError
from docora_ops.links import Link, LinkStatus

GroupBy = Annotated[
    Literal["app", "repository", "error", "status"] | None,
    typer.Option(
        "--group-by", metavar="FIELD", help="Count links by app, repository, error or status."
    ),
]


def _error(row: Any) -> str:
    return with_reason_first(row.error_message or "")


_LINKS: Sequence[Column[Any]] = (
    Column("App", lambda link: link.app_name),
    Column("App id", lambda link: link.app_id, drop=4),
    Column("Repository", lambda link: link.repository_name),
    Column("Repository id", lambda link: link.repository_id, drop=5),
    Column("Status", lambda link: link.status, lambda link: style_of(link.status), drop=2),
    Column("Tries", lambda link: link.retry_count, is_number=True, drop=1),
    Column("Last good scan", lambda link: link.last_scanned_at, drop=3),
    Column("Circuit open until", lambda link: link.circuit_open_until, drop=6),
    Column("Error", _error, folds=True),
)
_SCANNED: Column[Any] = Column("Newest good scan", lambda group: group.last_scanned_at, drop=1)
_COUNT: Column[Any] = Column("Links", lambda group: group.links, is_number=True)
_APPS: Column[Any] = Column("Apps", lambda group: group.apps, is_number=True)
_GROUPS: dict[str, Sequence[Column[Any]]] = {
    "app": (
        _COUNT,
        Column("App", lambda group: group.name),
        Column("App id", lambda group: group.key, drop=3),
        Column("E-mail", lambda group: group.email),
        Column("URL", lambda group: group.base_url, drop=2, folds=True),
        _SCANNED,
    ),
    "repository": (
        _COUNT,
        _APPS,
        Column("Repository", lambda group: group.name),
        Column("Repository id", lambda group: group.key, drop=2),
        _SCANNED,
    ),
    "error": (
        _COUNT,
        _APPS,
        Column("App names", lambda group: ", ".join(group.app_names), drop=1, folds=True),
        replace(_SCANNED, drop=2),  # on call, the cause and the apps matter more
        Column("Error", lambda group: group.error_message or "none", folds=True),
    ),
    "status": (
        _COUNT,
        _APPS,
        Column("Status", lambda group: group.key, lambda group: style_of(group.key)),
        _SCANNED,
    ),
}


def links(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    status: options.Statuses = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    circuit: options.Circuit = None,
    overdue: options.Overdue = False,
    group_by: GroupBy = None,
    limit: options.Limit = 20,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """List links of any status, or count them."""
    _list(typer_context)


def failed(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    circuit: options.Circuit = None,
    group_by: GroupBy = None,
    limit: options.Limit = 20,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """List the failed links, or count them.

    retry-all-failed retries what failed lists with the same options.
    """
    _list(typer_context, is_failed=True)


# The options of both commands are read from the context: see `options.SELECTING`.
def _list(typer_context: typer.Context, *, is_failed: bool = False) -> None:
    context = context_of(typer_context)
    from docora_ops.actions.lists import GroupBy, Page, group_links, list_links
    from docora_ops.actions.lookup import choose_links

    chosen, docora = typer_context.params, context.docora
    limit, page, group_by = chosen["limit"], chosen["page"], chosen["group_by"]
    if group_by == "status" and is_failed:
        raise UsageError("all links of failed have the same status", hint="see docora-ops links")
    which = choose_links(docora, **options.selection(typer_context))
    if is_failed:
        which = replace(which, statuses=[LinkStatus.FAILED])
    if group_by:
        groups = group_links(docora, which, GroupBy(group_by), limit, page)
        context.show_page(groups, _GROUPS[group_by], "group")
    else:
        columns = [column for column in _LINKS if not (is_failed and column.name == "Status")]
        found: Page[Any] = list_links(docora, which, limit, page)
        if context.as_json:
            found = replace(found, rows=[_document(link) for link in found.rows])
        context.show_page(found, columns, "failed link" if is_failed else "link")


def _document(link: Link) -> dict[str, object]:
    """Returns the fields of a link; `timestamp` is the dashboard's name for the last good scan."""
    shown = {field.name: getattr(link, field.name) for field in fields(link) if field.repr}
    return shown | {"timestamp": link.last_scanned_at}
