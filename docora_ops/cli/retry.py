"""`retry` and `retry-all-failed`."""

import typer

from docora_ops.cli import options, progress
from docora_ops.cli.context import context_of
from docora_ops.errors import ExitCode
from docora_ops.links import Change, LinkFilter


def retry(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    reset_circuit: options.ResetCircuit = False,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Retry one failed link.

    Resets the link and queues its snapshot job in one transaction. A waiting job is kept, a running
    one is left alone, and the remains of an ended job are replaced. docora-ops worker does not wait
    for an open circuit; Docora's own scheduler does, unless --reset-circuit closes it.
    """
    context = context_of(typer_context)
    from docora_ops.actions.changes import run_single

    change = Change.retry(LinkFilter(), closes_circuit=reset_circuit)
    outcome, operation = run_single(
        context.docora, change, app, repo, reason=reason, dry_run=dry_run
    )
    return progress.show_single(
        context, "Retry queued", outcome, operation, wait=wait, timeout=timeout
    )


def retry_all_failed(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    circuit: options.Circuit = None,
    limit: options.BulkLimit = None,
    reset_circuit: options.ResetCircuit = False,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode:
    """Retry all failed links as one bulk operation.

    Options select some of them. Links are queued in batches of 1,000, round-robin across apps. At a
    terminal, asks first. If it is killed, run the same command again: it finishes the rest.
    """
    context = context_of(typer_context)
    from docora_ops.actions.changes import select_links
    from docora_ops.actions.lookup import choose_links

    which = choose_links(context.docora, **options.selection(typer_context))
    change = Change.retry(which, closes_circuit=reset_circuit)
    ids = select_links(context.docora, change.which, limit)

    def confirm() -> None:
        above = [progress.by_app(context, ids)]
        progress.ask(context, progress.queues_in_words(context, len(ids)), above)

    return progress.change_in_bulk(
        typer_context,
        change,
        ids,
        confirm=confirm,
        target=options.in_words(typer_context) or "all failed links",
        message="Bulk retry started",
    )
