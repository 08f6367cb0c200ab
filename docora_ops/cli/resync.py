"""`resync`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli.audit_note import change_note, link_note, require_reason
from docora_ops.cli.context import Context, context_of, require_text
from docora_ops.cli.options import (
    AppArgument,
    DryRunOption,
    JsonOption,
    OptionalRepoArgument,
    ReasonOption,
    TimeoutOption,
    WaitOption,
    YesOption,
)
from docora_ops.cli.terminal import Terminal, terminal_to_ask
from docora_ops.cli.waiting import Wait, wait_of
from docora_ops.errors import UsageError

_BATCH_SIZE = 50
"""Links in one transaction: it deletes thousands of rows for each."""


def resync(
    typer_context: typer.Context,
    app: AppArgument,
    repo: OptionalRepoArgument = None,
    all_links: Annotated[bool, typer.Option("--all", help="Every link of the app.")] = False,
    reason: ReasonOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> int:
    """Send an app every file again: of one repository, or of all.

    Forgets what the app has received, resets the link and queues its snapshot job, all or
    nothing, whatever the link's status. Refused while the link's snapshot is running.
    """
    context = context_of(typer_context)
    require_text("APP", app)
    require_text("REPO", repo)
    require_reason(reason)
    if (repo is None) != all_links:
        raise UsageError(
            "resync needs a repository or --all, not both"
            if all_links
            else "resync of which repository?",
            hint="docora-ops resync APP REPO for one, docora-ops resync APP --all for every one",
        )
    waiting = wait_of(wait=wait, timeout=timeout, dry_run=dry_run)
    terminal = terminal_to_ask(skip=yes or dry_run)
    if repo is not None:
        return _one(
            context, app, repo, reason, terminal, dry_run=dry_run, as_json=as_json, wait=waiting
        )
    if not (yes or dry_run or terminal):
        raise UsageError(
            "resync --all sends every file of the app again, and nobody is here to confirm it",
            hint="add --yes",
        )
    return _all(context, app, reason, terminal, dry_run=dry_run, as_json=as_json, wait=waiting)


def _one(
    context: Context,
    app: str,
    repo: str,
    reason: str | None,
    terminal: Terminal | None,
    *,
    dry_run: bool,
    as_json: bool,
    wait: Wait | None,
) -> int:
    from docora_ops.actions.link_change import resync as resync_link
    from docora_ops.actions.lookup import resolve_link
    from docora_ops.actions.selecting import files_received
    from docora_ops.actions.surroundings import look_around
    from docora_ops.cli.link_result import show_result
    from docora_ops.render import tables

    link = resolve_link(context.database, app, repo)
    surroundings = look_around(context.queue)
    context.warn(surroundings)
    if terminal is not None:
        files = files_received(context.database, link.ref)
        terminal.ask(
            "{servers}: send {app} {files} of {repository} again (forget the delivery records, "
            "reset the link and queue its snapshot job)?",
            servers=context.servers,
            app=link.payload.app_name,
            files=tables.amount(files, "file"),
            repository=link.payload.repository,
        )
    note = link_note("resync", reason, link)
    result = resync_link(context.database, context.queue, link.ref, dry_run=dry_run, note=note)
    return show_result(context, result, surroundings, dry_run=dry_run, as_json=as_json, wait=wait)


def _all(
    context: Context,
    app: str,
    reason: str | None,
    terminal: Terminal | None,
    *,
    dry_run: bool,
    as_json: bool,
    wait: Wait | None,
) -> int:
    from docora_ops.actions.selecting import links_of_app
    from docora_ops.cli.bulk_command import BulkCommand
    from docora_ops.links import Action
    from docora_ops.render import tables

    found, selection, files = links_of_app(context.database, app)
    names = {"app_id": found.app_id, "app_name": found.app_name}
    return BulkCommand(
        context,
        Action.RESYNC,
        selection,
        _BATCH_SIZE,
        change_note("resync", reason, **names, all=True),
        dry_run=dry_run,
        as_json=as_json,
        wait=wait,
    ).run(
        "{servers}: send {app}, over {links}, {files} again (forget the delivery records, "
        "reset the links and queue their snapshot jobs)?",
        terminal,
        app=found.app_name,
        files=tables.amount(files, "file"),
    )
