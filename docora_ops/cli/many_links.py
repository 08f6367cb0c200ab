"""`retry-all-failed` and `schedule`."""

from contextlib import suppress
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of, link_choice
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.terminal import is_interrupted
from docora_ops.errors import DocoraOpsError, UsageError


def retry_all_failed(
    typer_context: typer.Context,
    app: options.Apps = None,
    exclude_app: options.ExcludeApps = None,
    repo: options.Repositories = None,
    error: options.Errors = None,
    exclude_error: options.ExcludeErrors = None,
    no_error: options.NoError = False,
    circuit: options.CircuitFilter = None,
    last_scan_before: options.LastScanBefore = None,
    last_scan_after: options.LastScanAfter = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At most N links, spread evenly across apps."),
    ] = None,
    front: options.Front = False,
    reset_circuit: options.ResetCircuit = False,
    in_flight: options.InFlight = None,
    max_failures: options.FailureLimit = None,
    detach: options.Detach = False,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Retry all failed links as one bulk operation.

    Queues links round-robin across apps. If the command is killed, rerun it to finish the rest.
    """
    context = context_of(typer_context)
    if detach:
        if in_flight is None:
            raise UsageError("--detach needs --in-flight", hint="add --in-flight N")
        if wait or dry_run:
            both = f"--detach and {'--wait' if wait else '--dry-run'}"
            raise UsageError(f"{both} can't be combined", hint="remove one of them")
        from docora_ops.cli.detach import require_survival

        require_survival()
    terminal = confirmation(typer_context)
    from docora_ops.actions.many_links import retry_all_failed
    from docora_ops.cli.bulk_command import run_bulk

    events = retry_all_failed(
        context.docora,
        link_choice(typer_context),
        context.options,
        limit=limit,
        by_prefix=dry_run or terminal is not None,
        reason=reason,
    )
    return run_bulk(context, events, terminal, detached=detach)


def schedule(
    typer_context: typer.Context,
    repeat: Annotated[
        bool,
        typer.Option("--repeat", help="Repeat every SCAN_INTERVAL_MS, until a signal."),
    ] = False,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Queue all due links once.

    Run this from cron or a timer, or with --repeat in a container. A link is due for its first
    snapshot, for a rescan or, if it is failed, for a retry. Changes no link. Keeps live jobs.
    Replaces stale jobs, and jobs that are marked as waiting but missing from the queue. Excludes
    links that a running command with --in-flight will queue, and links whose circuit is open. Once
    a circuit has been open, its failed links stay excluded until git succeeds again.
    """
    context = context_of(typer_context)
    if repeat and (as_json or dry_run):
        other = "--json" if as_json else "--dry-run"
        raise UsageError(f"--repeat and {other} can't be combined", hint="remove one of them")
    from docora_ops.actions.many_links import repeat_schedule, schedule
    from docora_ops.cli.bulk_command import run_bulk

    if not repeat:
        return run_bulk(context, schedule(context.docora, dry_run=dry_run, reason=reason))
    context.tells_time = True
    last_error = ""
    with suppress(KeyboardInterrupt):
        for steps in repeat_schedule(context.docora, reason=reason):
            if not isinstance(steps, DocoraOpsError):
                run_bulk(context, steps)
                last_error = ""
            elif last_error != steps.message:
                last_error = steps.message
                context.report(steps, next_step="the next pass tries again")
            context.tell()
            if is_interrupted():
                break
    return ExitCode.OK
