"""`schedule`."""

import typer

from docora_ops import actions
from docora_ops.bulk import ChangeOptions
from docora_ops.cli import options
from docora_ops.cli.context import context_of


def schedule(
    typer_context: typer.Context,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Queue everything that is due, once. For cron or a timer.

    Due are first snapshots, rescans, and failed links. Changes no link. Keeps live jobs. Replaces
    stale jobs, and jobs whose status says that they wait though they are in no list. Excludes
    links whose circuit is open, failed links whose circuit was opened since git last succeeded,
    and links of a running command with --in-flight.
    """
    context = context_of(typer_context)
    from docora_ops.cli.bulk_command import run_bulk

    events = actions.schedule(context.docora, dry_run=dry_run, reason=reason)
    return run_bulk(context, events, ChangeOptions(dry_run=dry_run))
