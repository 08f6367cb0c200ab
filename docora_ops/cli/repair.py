"""`repair`."""

import typer

from docora_ops.cli import options, progress
from docora_ops.cli.context import context_of
from docora_ops.errors import ExitCode, UsageError
from docora_ops.links import Change
from docora_ops.text import amount


def repair(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Queue every link that should have a live job and has none.

    Such a link is pending or scanning, and its job neither waits nor runs: Redis was emptied, or a
    worker was killed. Looks twice, 5 s apart. A scanning link counts a failure first.
    """
    context = context_of(typer_context)
    if app is not None and repo is None:
        raise UsageError("repair takes APP and REPO, or neither", hint="name the repository, too")
    from docora_ops.actions.changes import change_links, new_operation, run_bulk
    from docora_ops.actions.drift import find_drift
    from docora_ops.actions.lookup import resolve_link
    from docora_ops.actions.schedule import repair_link

    docora, nothing = context.docora, "Nothing to repair"
    if app is not None and repo is not None:
        link = resolve_link(docora.database, app, repo)
        outcome, single = repair_link(docora, link, reason=reason, dry_run=dry_run)
        message = "Repaired" if outcome.state.is_put_to_work else nothing
        return progress.show_single(context, message, outcome, single, wait=wait, timeout=timeout)
    drift, change = find_drift(docora), Change.repair()
    if dry_run:
        batches = change_links(docora, change, drift.ids, dry_run=True)
        outcomes = [outcome for batch in batches for outcome in batch]
        return progress.show_plan(context, outcomes, nothing)
    if not drift.ids:
        return progress.show_nothing(context, nothing)
    if not yes:
        count = amount(len(drift.ids), "link")
        progress.ask(context, f"queue {count} without a live job again", [])
    operation = new_operation(docora, change.action, "links without a live job", reason=reason)
    events = run_bulk(docora, change, drift.ids, operation, looked_at=drift.looked_at)
    return progress.run_bulk(context, events, "Repair started", wait=wait, timeout=timeout)
