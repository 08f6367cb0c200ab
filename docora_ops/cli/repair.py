"""`repair`."""

from contextlib import closing
from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.signals import interrupted_code, until_interrupted
from docora_ops.errors import ServerError
from docora_ops.text import amount

_NEXT_STEP = "the same command finishes the rest"


def repair(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    reason: options.Reason = None,
    remove_unknown_jobs: Annotated[
        bool,
        typer.Option(
            "--remove-unknown-jobs", help="Repair even if most jobs have no link in the database."
        ),
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    confirm: options.Confirm = None,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Repair the drift that doctor finds.

    Covers all links, the links of one app, or one link. Queues lost and stuck links again, and
    counts a failure for each stuck link. Removes orphaned and duplicate jobs and stale entries.
    Never touches a running job. Changes nothing if the database and the queue do not seem to belong
    together. If the command is killed, run it again to finish the rest.
    """
    context = context_of(typer_context)
    terminal = confirmation(typer_context, context)
    from docora_ops.actions.fix_drift import repair
    from docora_ops.drift import RepairOutcome, RepairResult
    from docora_ops.render import drift_view
    from docora_ops.render.columns import Listing
    from docora_ops.render.console import progress_bar

    lost, result = None, RepairResult(())
    events = repair(
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
        if result.total and not dry_run:
            if terminal is not None:
                found = amount(result.total, "mismatch", "mismatches")
                question = f"{context.docora.servers}: repair {found}?"
                terminal.ask(question, Listing(drift_view.FOUND, result.by_app, 20))
            try:
                with progress_bar(result.total) as move:
                    for event in until_interrupted(events):
                        if isinstance(event, RepairResult):
                            result = event
                            move(result.completed)
            except ServerError as error:
                lost = error
    is_cut_short = not dry_run and result.completed < result.total
    if context.as_json:
        context.show_document(drift_view.repair_data(result), lost)
    elif result.total:
        context.show_tables(drift_view.repair_screens(result), paged=dry_run)
    else:
        context.show_tables([drift_view.repair_message(result)])
    if dry_run:
        context.say(f"{context.docora.servers}: dry run, nothing was changed.")
    stopped = f"Stopped after {result.completed} of {result.total}"
    if lost:
        return context.report(lost, f"{stopped}.", _NEXT_STEP)
    if is_cut_short:
        context.warn(f"{stopped}; {_NEXT_STEP}.")
        return interrupted_code()
    has_problems = result.counts.get(RepairOutcome.NOT_REPAIRED)
    return ExitCode.PROBLEMS if has_problems else ExitCode.OK
