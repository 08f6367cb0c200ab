"""`retry` and `retry-all-failed`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli.audit_note import change_note, link_note, require_reason
from docora_ops.cli.context import context_of, require_text
from docora_ops.cli.options import (
    AppArgument,
    AppOption,
    DryRunOption,
    ErrorOption,
    JsonOption,
    ReasonOption,
    RepoArgument,
    TimeoutOption,
    WaitOption,
    YesOption,
)
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.cli.waiting import wait_of


def retry(
    typer_context: typer.Context,
    app: AppArgument,
    repo: RepoArgument,
    front: Annotated[
        bool, typer.Option("--front", help="Put the job at the head of the queue.")
    ] = False,
    reset_circuit: Annotated[
        bool,
        typer.Option(
            "--reset-circuit",
            help="Close the repository's circuit too: the scheduler queues its links again.",
        ),
    ] = False,
    reason: ReasonOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Put one failed link back to work.

    Resets the link and queues its snapshot job, both or neither. A job that is waiting or running
    already is kept; a dead leftover is replaced. An open circuit of the repository does not delay
    the job.
    """
    context = context_of(typer_context)
    require_text("APP", app)
    require_text("REPO", repo)
    require_reason(reason)
    waiting = wait_of(wait=wait, timeout=timeout, dry_run=dry_run)
    from docora_ops.actions.link_change import retry as retry_link
    from docora_ops.actions.lookup import resolve_link
    from docora_ops.actions.surroundings import look_around
    from docora_ops.cli.link_result import show_result

    link = resolve_link(context.database, app, repo)
    surroundings = look_around(context.queue)
    context.warn(surroundings)
    result = retry_link(
        context.database,
        context.queue,
        link.ref,
        front=front,
        reset_circuit=reset_circuit,
        dry_run=dry_run,
        note=link_note("retry", reason, link, front=front, reset_circuit=reset_circuit),
    )
    return show_result(
        context, result, surroundings, dry_run=dry_run, as_json=as_json, wait=waiting
    )


def retry_all_failed(
    typer_context: typer.Context,
    app: AppOption = None,
    error: ErrorOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            max=10**9,
            show_default=False,
            help="At most so many links, spread over the apps.",
        ),
    ] = None,
    skip_open_circuits: Annotated[
        bool,
        typer.Option(
            "--skip-open-circuits", help="Leave out repositories whose circuit breaker is open."
        ),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            max=1000,
            help="Links that are locked, queued and committed together.",
        ),
    ] = 500,
    reason: ReasonOption = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> int:
    """Put every failed link back to work, as one bulk operation.

    Goes in the order of app id, then repository id: when a link failed is not recorded. Killed at
    any point, the same command finishes the rest. With `--limit` each app has its turn before one
    has another: a few links show how all of them would fare.
    """
    context = context_of(typer_context)
    require_text("--app", app)
    require_text("--error", error)
    require_reason(reason)
    waiting = wait_of(wait=wait, timeout=timeout, dry_run=dry_run)
    terminal = terminal_to_ask(skip=yes or dry_run)
    from docora_ops.actions.selecting import failed_links
    from docora_ops.cli.bulk_command import BulkCommand
    from docora_ops.links import Action

    note = change_note(
        "retry-all-failed",
        reason,
        app=app,
        error=error,
        limit=limit,
        skip_open_circuits=skip_open_circuits,
    )
    selection = failed_links(
        context.database,
        app=app,
        error=error,
        limit=limit,
        skip_open_circuits=skip_open_circuits,
    )
    return BulkCommand(
        context,
        Action.RETRY,
        selection,
        batch_size,
        note,
        dry_run=dry_run,
        as_json=as_json,
        wait=waiting,
    ).run("{servers}: reset {links} and queue their snapshot jobs?", terminal)
