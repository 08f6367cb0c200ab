"""`schedule`."""

from __future__ import annotations

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_change
from docora_ops.cli.context import context_of


def schedule(
    typer_context: typer.Context,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Queue everything that is due, once. For cron or a timer.

    Due are first snapshots, rescans, and failed links. Changes no link. Keeps live jobs, and
    replaces stale ones. Excludes links whose circuit is open, failed links whose circuit was opened
    since git last succeeded, and links of a running command with --in-flight.
    """
    context = context_of(typer_context)
    within = context.settings.scan_interval
    context.require_rq("schedule", f"Docora's worker queues what is due by itself, within {within}")
    from docora_ops.actions.bulk.left_to_runs import without_paced_links
    from docora_ops.cli.bulk_command import BulkCommand
    from docora_ops.database.selection import select_due
    from docora_ops.links import Action
    from docora_ops.queue import PacedRuns
    from docora_ops.text import amount

    due = select_due(context.database, context.settings.rescan_interval_ms)
    selection = without_paced_links(context.database, PacedRuns(context.redis), due)
    for operation_id, links in selection.left_to_operations.items():
        left = f"{amount(links, 'due link')} left to operation {operation_id}"
        context.say(f"{left}, which queues its links at its own pace (--in-flight).")
    change = describe_change("schedule", reason)
    return BulkCommand(context, Action.SCHEDULE, selection, change).run()
