"""`retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_link_change
from docora_ops.cli.context import context_of


def retry(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
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
    reason: options.Reason = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> int:
    """Put one failed link back to work.

    Resets the link and queues its snapshot job, both or neither. Keeps a job that is waiting or
    running already, and replaces a stale one. An open circuit of the repository does not delay the
    job.
    """
    context = context_of(
        typer_context, as_json=as_json, dry_run=dry_run, wait=wait, timeout=timeout
    )
    from docora_ops.actions import link_change
    from docora_ops.actions.lookup import resolve_link
    from docora_ops.cli.link_result import show_result

    link = resolve_link(context.database, app, repo)
    workers = context.count_workers()
    result = link_change.retry(
        context.database,
        context.queue,
        link.ref,
        front=front,
        reset_circuit=reset_circuit,
        dry_run=dry_run,
        change=describe_link_change(
            "retry", reason, link, front=front, reset_circuit=reset_circuit
        ),
    )
    return show_result(context, result, workers)
