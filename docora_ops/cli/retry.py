"""`retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from docora_ops.cli import options
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
    context = context_of(typer_context)
    from docora_ops.cli.link_command import change_link
    from docora_ops.links import Action

    return change_link(
        context, Action.RETRY, app, repo, reason, front=front, reset_circuit=reset_circuit
    )
