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
    """Queue links that have lost their jobs.

    Such a link is pending or scanning, and its job neither waits nor runs: Redis was emptied, or a
    worker was killed. Looks twice, 5 s apart. A scanning link counts a failure first.
    """
    context = context_of(typer_context)
    if app is not None and repo is None:
        raise UsageError("repair takes APP and REPO, or neither", hint="name the repository, too")
    from docora_ops.actions.drift import find_drift
    from docora_ops.actions.lookup import resolve_link
    from docora_ops.actions.schedule import repair_link

    docora = context.docora
    if app is not None and repo is not None:
        link = resolve_link(docora.database, app, repo)
        outcome, single = repair_link(docora, link, reason=reason, dry_run=dry_run)
        message = "Repaired" if outcome.state.is_put_to_work else "Nothing to repair"
        return progress.show_single(context, message, outcome, single, wait=wait, timeout=timeout)
    drift = find_drift(docora)
    question = f"queue {amount(len(drift.ids), 'link')} without a live job again"
    return progress.change_in_bulk(
        typer_context,
        Change.repair(),
        drift.ids,
        confirm=lambda: progress.ask(context, question, []),
        target="links without a live job",
        message="Repair started",
        looked_at=drift.looked_at,
    )
