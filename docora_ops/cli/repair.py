"""`repair`."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops import actions
from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.signals import interrupted_code, stopping_on_signals
from docora_ops.cli.streams import write_at_once
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import ServerError
from docora_ops.interrupts import Stop
from docora_ops.text import amount

if TYPE_CHECKING:
    from docora_ops.drift import RepairResult

_NEXT_STEP = "the same command finishes the rest"


def repair(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    reason: options.Reason = None,
    remove_unknown_jobs: Annotated[
        bool,
        typer.Option(
            "--remove-unknown-jobs",
            help="Repair even if most jobs have no link in the database.",
        ),
    ] = False,
    with_list: Annotated[
        bool,
        typer.Option("--list", help="List each mismatch, in addition to the counts by app."),
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Repair the drift that doctor finds.

    Everywhere, of one app, or of one link. Queues lost and stuck links again; a stuck link counts a
    failure. Removes orphaned and duplicate jobs and stale entries. Never touches a running job.
    Changes nothing if database and queue do not seem to belong together. If the command is killed,
    run it again to finish the rest.
    """
    context = context_of(typer_context)
    terminal = terminal_to_ask(skip=yes or dry_run)
    from docora_ops.drift import RepairResult
    from docora_ops.render.columns import Listing
    from docora_ops.render.console import progress_bar
    from docora_ops.render.drift_view import FOUND

    stop, error, result = Stop(), None, RepairResult(())

    def stop_at_once() -> None:
        write_at_once(f"Stopped: {_NEXT_STEP}.\n")
        os._exit(interrupted_code())  # Postgres rolls back what is not committed

    events = actions.repair(
        context.docora,
        app,
        repo,
        by_prefix=dry_run or terminal is not None,
        remove_unknown_jobs=remove_unknown_jobs,
        dry_run=dry_run,
        reason=reason,
    )
    with closing(events):
        for event in events:
            context.tell()
            if isinstance(event, RepairResult):
                result = event
                break
        context.collect_garbage()
        if dry_run or not result.total:
            _show(context, result, with_list=with_list)
            if dry_run:
                context.say("Dry run: nothing was changed.")
            return _code(result)
        if terminal is not None:
            question = f"{context.docora.servers}: {_changes(context, result)}?"
            terminal.ask(question, Listing(FOUND, result.by_app, 20))
        with stopping_on_signals(stop, stop_at_once):
            try:
                with progress_bar(context.err, result.total) as move:
                    for event in events:
                        if isinstance(event, RepairResult):
                            result = event
                            move(result.completed)
                        if stop.requested:
                            break
                events.close()
            except ServerError as lost:
                error = lost
            # Signals are still handled here: none may cut the document in two.
            is_cut_short = result.completed < result.total
            _show(context, result, error, with_list=with_list, is_last=not is_cut_short)
            stopped = f"Stopped after {result.completed} of {result.total}"
            if error:
                return context.report(error, f"{stopped}.", _NEXT_STEP)
            if is_cut_short:
                context.warn(f"{stopped}; {_NEXT_STEP}.")
                return interrupted_code()
            return _code(result)


def _changes(context: Context, found: RepairResult) -> str:
    """Returns what the repair would do, for the question."""
    from docora_ops.drift import DriftKind

    links = found.found[DriftKind.LOST] + found.found[DriftKind.STUCK]
    removals = found.total - links
    queue = f"queue {amount(links, 'link')} again" if links else ""
    if links and context.docora.queue.is_docoras:
        queue = f"reset {amount(links, 'link')}, so that Docora's scheduler queues them again"
    remove = f"remove {amount(removals, 'job or entry', 'jobs or entries')}" if removals else ""
    changes = " and ".join(filter(None, (queue, remove)))
    if found.found[DriftKind.STUCK]:
        changes += " (a stuck link without tries left becomes failed instead)"
    return changes


def _code(result: RepairResult) -> ExitCode:
    from docora_ops.drift import RepairOutcome

    is_done = not result.counts.get(RepairOutcome.NOT_REPAIRED)
    return ExitCode.OK if is_done else ExitCode.PROBLEMS


def _show(
    context: Context,
    result: RepairResult,
    error: ServerError | None = None,
    *,
    with_list: bool = False,
    is_last: bool = True,
) -> None:
    """Shows what was done until now, and in JSON the error that has ended it."""
    from docora_ops.render import drift_view

    if context.as_json:
        context.show_document(drift_view.repair_data(result), error)
    elif not result.total:
        context.show_tables([drift_view.repair_message(result)])
    else:
        screens = drift_view.repair_screens(result, with_list=with_list)
        context.show_tables(screens, is_last=is_last)
