"""`retry`, `retry-all-failed` and `schedule`."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, confirmation, context_of, link_choice
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.link_change import link_data, message, result_screen
from docora_ops.cli.terminal import is_interrupted, terminal_to_ask
from docora_ops.cli.waiting import wait_for_link
from docora_ops.errors import AppHeldError, DocoraOpsError, UsageError
from docora_ops.links import LinkResult, Outcome
from docora_ops.operations import ChangeOptions


def retry(
    typer_context: typer.Context,
    app: options.App,
    repo: options.Repo,
    front: options.Front = False,
    now: options.Now = False,
    reset_circuit: options.ResetCircuit = False,
    reason: options.Reason = None,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Retry one failed link.

    Resets the link and queues its snapshot job atomically. Keeps a live job. Replaces a stale job,
    and a job that is marked as waiting but missing from the queue. With RQ, queues the link even if
    the circuit of its repository is open.
    """
    context = context_of(typer_context)
    from docora_ops.actions.one_link import retry

    change = partial(retry, context.docora, app, repo, reason=reason)
    return show_change(context, _change_held(context, change))


def _change_held(context: Context, change: Callable[[ChangeOptions], LinkResult]) -> LinkResult:
    """Changes a link. If its app is held, asks at a terminal whether to exempt this one job.

    Without a terminal, or in a dry run, raises AppHeldError.
    """
    try:
        return change(context.options)
    except AppHeldError as error:
        terminal = None if context.options.dry_run else terminal_to_ask("--now")
        if terminal is None:
            raise
        told = context.docora.notices
        context.tell()
        terminal.ask(f"{context.docora.servers}: {error.message}; exempt this one job?")
        try:
            return change(replace(context.options, now=True))
        finally:
            new = [notice for notice in context.docora.notices if notice not in told]
            context.docora.notices = new


def show_change(context: Context, result: LinkResult) -> int:
    """Shows the result of the change and, with `--wait`, of the snapshot. Returns the exit code."""
    if not context.as_json:
        context.show_tables([result_screen(result)])
        done = "dry run, nothing was changed" if result.dry_run else message(result)
        context.say(f"{context.docora.servers}: {done}.")
        if sys.stderr.isatty() and not (result.dry_run or context.options.wait):
            context.say(f"To wait for the result: docora-ops wait {result.link.ref.words}")
    elif not context.options.wait:
        context.show_document(link_data(result, result.workers))
    if context.options.front and result.outcome is Outcome.ALREADY_QUEUED:
        context.say("The job already waits and keeps its place: --front does not move it.")
    if not context.options.wait:
        return ExitCode.OK
    from docora_ops.actions.waiting import wait_for_change

    steps = wait_for_change(context.docora, result, timeout=context.options.timeout)
    return wait_for_link(context, steps, result)


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
    confirm: options.Confirm = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
    target: options.Target = None,
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
    terminal = confirmation(typer_context, context)
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
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Queue all due links once.

    For cron or a timer; with --repeat, for a container. Links become due for their first snapshot,
    a rescan, or a retry if they are failed. Changes no link. Keeps live jobs. Replaces stale jobs,
    and jobs that are marked as waiting but missing from the queue. Excludes links whose circuit is
    open; failed links whose circuit was open, until git succeeds again; and links that a running
    command with --in-flight will queue.
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
