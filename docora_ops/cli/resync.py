"""`resync`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from docora_ops.audit import describe_change
from docora_ops.cli import options
from docora_ops.cli.change import reset_in_words, sent_again
from docora_ops.cli.context import context_of
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import UsageError

_BATCH_SIZE = 50
"""Links in one transaction, which deletes thousands of rows for each."""


def resync(
    typer_context: typer.Context,
    app: options.App,
    repo: options.OptionalRepo = None,
    all_links: Annotated[bool, typer.Option("--all", help="Resync all links of the app.")] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Send known files as updates, and delete files from the app that are gone from "
            "the repository. Keeps the delivery records.",
        ),
    ] = False,
    front: options.Front = False,
    reset_circuit: options.ResetCircuit = False,
    reason: options.Reason = None,
    in_flight: options.InFlight = None,
    max_failures: options.FailureLimit = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Send an app all files again, of one repository or of all.

    Deletes the delivery records of the link, resets the link and queues its snapshot job, all or
    nothing, regardless of the status of the link. Refused while a snapshot of the link is running.

    Without delivery records, the app never learns of files that were deleted from the repository
    since the last snapshot. Use --update to have them deleted, unless the app has lost its files
    and cannot update them.
    """
    context = context_of(typer_context)
    if (repo is None) != all_links:
        if all_links:
            raise UsageError(
                "resync takes either REPO or --all, not both", hint="remove one of them"
            )
        raise UsageError(
            "resync needs REPO or --all",
            hint="--all sends the files of all repositories",
        )
    if repo is not None and in_flight is not None:
        raise UsageError("--in-flight needs --all", hint="remove --in-flight")
    if front:
        from docora_ops.actions.workers import require_rq_for_front

        require_rq_for_front(context.docora)
    terminal = terminal_to_ask(skip=yes or dry_run)
    from docora_ops.links import Action

    if repo is not None:
        from docora_ops.cli.link_command import change_link

        return change_link(
            context,
            Action.RESYNC,
            app,
            repo,
            reason,
            terminal,
            front=front,
            reset_circuit=reset_circuit,
            update=update,
        )
    if not (yes or dry_run or terminal):
        raise UsageError(
            "resync --all sends the app all files again, and there is no terminal to confirm that",
            hint="add --yes to skip the confirmation",
        )
    from docora_ops.actions.lookup import resolve_app
    from docora_ops.cli.bulk_command import BulkCommand, BulkOptions
    from docora_ops.database.link_rows import count_deliveries
    from docora_ops.database.selection import select_of_app
    from docora_ops.text import amount

    by_prefix = dry_run or terminal is not None
    found = resolve_app(context.docora.database, app, by_prefix=by_prefix)
    bulk = BulkOptions(front, reset_circuit, in_flight, max_failures, update)
    selection = select_of_app(
        context.docora.database,
        found.app_id,
        skip_open_circuits=bulk.must_skip_open_circuits(context),
    )
    files = amount(count_deliveries(context.docora.database, selection.refs), "file")
    reset = reset_in_words(context, "the links", "their snapshot jobs")
    question = (
        f"send {found.app_name}, over {amount(selection.total, 'link')}, {files} "
        f"{sent_again(update=update)} the delivery records, {reset}{bulk.words})"
    )
    change = describe_change("resync", reason, **asdict(found), all=True, **bulk.recorded)
    command = BulkCommand(context, Action.RESYNC, selection, change, _BATCH_SIZE, bulk)
    return command.run(question, terminal)
