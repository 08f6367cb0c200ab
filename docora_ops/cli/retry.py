"""`retry`."""

from __future__ import annotations

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import context_of


def retry(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    front: options.Front = False,
    reset_circuit: options.ResetCircuit = False,
    reason: options.Reason = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Retry one failed link.

    Resets the link and queues its snapshot job, both or neither. Keeps a live job, and replaces a
    stale one. An open circuit does not delay the job.
    """
    context = context_of(typer_context)
    from docora_ops.cli.link_command import show_change

    chosen = options.change_options(typer_context)
    result = actions.retry(context.docora, app, repo, chosen, reason=reason)
    return show_change(context, result, chosen)
