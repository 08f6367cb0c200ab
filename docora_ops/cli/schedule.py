"""`schedule`."""

from __future__ import annotations

import typer

from docora_ops.cli.audit_note import change_note, require_reason
from docora_ops.cli.context import context_of
from docora_ops.cli.options import DryRunOption, JsonOption, ReasonOption

_BATCH_SIZE = 500


def schedule(
    typer_context: typer.Context,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Queue what is due, once: first snapshots, rescans, and failed links, for cron or a timer.

    Changes no link. A job that is waiting or running already is kept; a dead leftover is replaced.
    Leaves out repositories whose circuit is open, and failed links of repositories whose circuit
    was opened since git last succeeded.
    """
    context = context_of(typer_context)
    require_reason(reason)
    from docora_ops.actions.selecting import due_links
    from docora_ops.cli.bulk_command import BulkCommand
    from docora_ops.links import Action

    selection = due_links(context.database, context.settings.rescan_interval_ms)
    return BulkCommand(
        context,
        Action.SCHEDULE,
        selection,
        _BATCH_SIZE,
        change_note("schedule", reason),
        dry_run=dry_run,
        as_json=as_json,
    ).run()
