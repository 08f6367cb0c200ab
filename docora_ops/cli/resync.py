"""`resync`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_change, describe_link_change
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.terminal import Terminal, terminal_to_ask
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from docora_ops.links import Link

_BATCH_SIZE = 50
"""Links in one transaction, which deletes thousands of rows for each."""


def resync(
    typer_context: typer.Context,
    app: options.App,
    repo: options.OptionalRepo = None,
    all_links: Annotated[bool, typer.Option("--all", help="Every link of the app.")] = False,
    reason: options.Reason = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> int:
    """Send an app every file again: of one repository, or of all.

    Deletes the link's delivery records, resets the link and queues its snapshot job, all or
    nothing, whatever the link's status. Refused while the link's snapshot is running.
    """
    context = context_of(
        typer_context, as_json=as_json, dry_run=dry_run, wait=wait, timeout=timeout
    )
    if (repo is None) != all_links:
        raise UsageError(
            "resync needs a repository or --all, not both"
            if all_links
            else "resync of which repository?",
            hint="docora-ops resync APP REPO for one, docora-ops resync APP --all for every one",
        )
    terminal = terminal_to_ask(skip=yes or dry_run)
    if all_links and not (yes or dry_run or terminal):
        raise UsageError(
            "resync --all sends every file of the app again, and nobody is here to confirm it",
            hint="add --yes",
        )
    from docora_ops.actions import link_change
    from docora_ops.actions.lookup import resolve_app, resolve_link
    from docora_ops.cli.link_result import show_result

    if repo is not None:
        link = resolve_link(context.database, app, repo)
        workers = context.count_workers()
        if terminal is not None:
            _ask(context, terminal, link)
        change = describe_link_change("resync", reason, link)
        result = link_change.resync(
            context.database, context.queue, link.ref, dry_run=dry_run, change=change
        )
        return show_result(context, result, workers)

    from docora_ops.cli.bulk_command import BulkCommand
    from docora_ops.database.link_rows import count_deliveries_of_app
    from docora_ops.database.selection import select_of_app
    from docora_ops.links import Action
    from docora_ops.render.cells import amount

    found = resolve_app(context.database, app)
    files = count_deliveries_of_app(context.database, found.app_id)
    selection = select_of_app(context.database, found.app_id)
    change = describe_change(
        "resync", reason, app_id=found.app_id, app_name=found.app_name, all=True
    )
    return BulkCommand(context, Action.RESYNC, selection, _BATCH_SIZE, change).run(
        "{servers}: send {app}, over {links}, {files} again (delete the delivery records, "
        "reset the links and queue their snapshot jobs)?",
        terminal,
        app=found.app_name,
        files=amount(files, "file"),
    )


def _ask(context: Context, terminal: Terminal, link: Link) -> None:
    from docora_ops.database.link_rows import count_deliveries
    from docora_ops.render.cells import amount

    terminal.ask(
        "{servers}: send {app} {files} of {repository} again (delete the delivery records, "
        "reset the link and queue its snapshot job)?",
        servers=context.servers,
        app=link.payload.app_name,
        files=amount(count_deliveries(context.database, [link.ref]), "file"),
        repository=link.payload.repository_name,
    )
