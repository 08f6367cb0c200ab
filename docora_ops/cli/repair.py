"""`repair`."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.audit import describe_change
from docora_ops.cli import options
from docora_ops.cli.change import names_of
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.long_run import progress_bar
from docora_ops.cli.signals import interrupted_code, stopping_on_signals
from docora_ops.cli.streams import write_at_once
from docora_ops.cli.terminal import terminal_to_ask
from docora_ops.errors import ServerError
from docora_ops.interrupts import Stop
from docora_ops.text import amount

if TYPE_CHECKING:
    from docora_ops.actions.find_drift import Findings
    from docora_ops.audit import Change
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
    from docora_ops.actions.find_drift import Findings
    from docora_ops.actions.fix_drift import find_drift_to_repair, plan_repair
    from docora_ops.actions.lookup import resolve_app, resolve_link
    from docora_ops.actions.workers import count_workers
    from docora_ops.drift import RepairResult
    from docora_ops.render.drift_view import found_list

    app_id = ref = None
    names: dict[str, object] = {}
    of = ""  # such as " of Acme Search"; empty for everywhere
    if app is not None and repo is not None:
        link = resolve_link(context.docora.database, app, repo)
        app_id, ref, names = link.ref.app_id, link.ref, names_of(link)
        of = f" of {link.payload.link_name}"
    elif app is not None:
        by_prefix = dry_run or terminal is not None
        found_app = resolve_app(context.docora.database, app, by_prefix=by_prefix)
        app_id, names, of = found_app.app_id, asdict(found_app), f" of {found_app.app_name}"
    context.collect_garbage()
    context.say(f"{context.docora.servers}: looking for drift{of}.")
    count_workers(context.docora, to_change=True, alone=True)
    has_suspects = False
    found = Findings(())
    for event in find_drift_to_repair(
        context.docora.database,
        context.docora.queue,
        delay=context.docora.settings.drift_grace,
        app_id=app_id,
        ref=ref,
        remove_unknown_jobs=remove_unknown_jobs,
    ):
        if isinstance(event, Findings):
            found = event
        elif not has_suspects:
            has_suspects = True
            mismatches = amount(event.count, "mismatch", "mismatches")
            context.say(f"{mismatches} at first check: checking again.")
    result = RepairResult(found.report.drifts)
    if dry_run:
        result = plan_repair(context.docora.queue, found)
        _show(context, result, with_list=with_list)
        context.say("Dry run: nothing was changed.")
        return _code(result)
    if not result.total:
        _show(context, result)
        return ExitCode.OK
    if terminal is not None:
        question = f"{context.docora.servers}: {_changes(context, result)}{of}?"
        context.tell()
        terminal.ask(question, found_list(result))
    change = describe_change("repair", reason, **names, remove_unknown_jobs=remove_unknown_jobs)
    return _carry_out(context, found, change, with_list=with_list)


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


def _carry_out(context: Context, found: Findings, change: Change, *, with_list: bool) -> int:
    """Repairs what was found and shows the result. Returns the exit code.

    The first signal ends the repair after its current batch, a second one at once.
    """
    from docora_ops.actions.fix_drift import repair as fix
    from docora_ops.drift import RepairResult

    stop = Stop()

    def exit_at_once() -> None:
        write_at_once(f"Stopped: {_NEXT_STEP}.\n")
        os._exit(interrupted_code())  # Postgres rolls back what is not committed

    result = RepairResult(found.report.drifts)
    events = fix(
        context.docora.database,
        context.docora.queue,
        context.docora.store,
        found,
        max_attempts=context.docora.settings.max_retry_attempts,
        change=change,
    )
    try:
        with stopping_on_signals(stop, exit_at_once):
            with closing(events), progress_bar(context, result.total) as move:
                for result in events:
                    move(result.completed)
                    if stop.requested:
                        break
            # Signals are still handled here: none may cut the document in two.
            is_cut_short = result.completed < result.total
            _show(context, result, with_list=with_list, is_last=not is_cut_short)
            if is_cut_short:
                done = f"Stopped after {result.completed} of {result.total}"
                context.warn(f"{done}; {_NEXT_STEP}.")
                return interrupted_code()
            return _code(result)
    except ServerError as error:
        context.docora.database.close()
        _show(context, result, error, with_list=with_list, is_last=False)
        stopped = f"Stopped after {result.completed} of {result.total}."
        return context.report(error, stopped, _NEXT_STEP)


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
