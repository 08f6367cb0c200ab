"""Finds the apps and repositories that the options of a command choose links by."""

from __future__ import annotations

from collections.abc import Sequence

from docora_ops.actions.lookup import require_repositories, resolve_app, resolve_linked_repository
from docora_ops.database import Database
from docora_ops.links import App, LinkFilter, LinkStatus


def choose_links(
    database: Database,
    *,
    apps: Sequence[str] = (),
    exclude_apps: Sequence[str] = (),
    repositories: Sequence[str] = (),
    statuses: Sequence[LinkStatus] = (),
    errors: Sequence[str] = (),
    exclude_errors: Sequence[str] = (),
    no_error: bool = False,
    open_circuit: bool | None = None,
    by_prefix: bool = True,
) -> tuple[LinkFilter, list[App], list[App]]:
    """Makes a filter from what a person typed. Returns the apps and the excluded apps, too.

    `apps`, `exclude_apps`: ids or names, with `by_prefix` also how the only one begins;
    `repositories`: ids, `owner/name` or URLs, each of which one of the apps must have, or
    `owner/name` with `*` for anything. Raises NotFoundError, AmbiguousError.
    """
    found = [resolve_app(database, text, by_prefix=by_prefix) for text in apps]
    excluded = [resolve_app(database, text, by_prefix=by_prefix) for text in exclude_apps]
    patterns = [text for text in repositories if "*" in text]
    for pattern in patterns:
        require_repositories(database, found, pattern)
    linked = [
        resolve_linked_repository(database, found, text)
        for text in repositories
        if text not in patterns
    ]
    which = LinkFilter(
        app_ids=[app.app_id for app in found],
        exclude_app_ids=[app.app_id for app in excluded],
        repository_ids=[repository.repository_id for repository in linked],
        repository_names=patterns,
        statuses=statuses,
        errors=errors,
        exclude_errors=exclude_errors,
        no_error=no_error,
        open_circuit=open_circuit,
    )
    return which, found, excluded
