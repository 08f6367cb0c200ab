"""`schedule`."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from docora_ops.audit import describe_change
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
    from docora_ops.actions.workers import require_rq

    within = context.docora.settings.scan_interval
    instead = f"Docora's worker queues what is due by itself, within {within}"
    require_rq(context.docora, "schedule", instead)
    from docora_ops.actions.bulk.left_to_runs import without_paced_links
    from docora_ops.actions.find_drift import Suspects, find_misplaced
    from docora_ops.cli.bulk_command import BulkCommand
    from docora_ops.database.selection import select_due
    from docora_ops.links import Action
    from docora_ops.queue import PacedRuns
    from docora_ops.text import amount

    due = select_due(context.docora.database, context.docora.settings.rescan_interval_ms)
    selection = without_paced_links(context.docora.database, PacedRuns(context.docora.redis), due)
    for operation_id, links in selection.left_to_operations.items():
        left = f"{amount(links, 'due link')} left to operation {operation_id}"
        context.say(f"{left}, which queues its links at its own pace (--in-flight).")
    misplaced: Mapping[str, str] = {}
    delay = context.docora.settings.drift_grace
    for event in find_misplaced(context.docora.queue, selection.refs, delay=delay):
        if not isinstance(event, Suspects):
            misplaced = event
    change = describe_change("schedule", reason)
    command = BulkCommand(context, Action.SCHEDULE, selection, change, disproved=misplaced)
    return command.run()
