"""`repair`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import typer

from docora_ops.cli import options
from docora_ops.cli.context import confirmation, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.terminal import interrupted_code, until_interrupted
from docora_ops.errors import ServerError
from docora_ops.render.columns import (
    ROWS_SHOWN,
    Column,
    Listing,
    cell,
    link_name,
    planned,
    style_of,
    words,
)
from docora_ops.text import amount

if TYPE_CHECKING:
    from docora_ops.actions.repairs import AppDrift, Repaired, RepairOutcome, RepairResult

_NEXT_STEP = "the same command finishes the rest"


def repair(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: options.OptionalRepo = None,
    reason: options.Reason = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Repair the drift that doctor finds.

    Covers all links, the links of one app, or one link. Queues lost and stuck links again, and
    counts a failure for each stuck link. Removes orphaned and duplicate jobs and stale entries.
    Never touches a running job. Changes nothing if the database and the queue do not seem to belong
    together. If the command is killed, run it again to finish the rest.
    """
    context = context_of(typer_context)
    terminal = confirmation(typer_context)
    from docora_ops.actions.repairs import RepairData, RepairOutcome, RepairResult, repair
    from docora_ops.render.console import progress_bar

    lost, result = None, RepairResult(())
    events = repair(
        context.docora,
        app,
        repo,
        by_prefix=dry_run or terminal is not None,
        dry_run=dry_run,
        reason=reason,
    )
    with closing(events):
        for event in context.telling_of_second_look(events, "suspect", "suspects"):
            context.tell()
            if isinstance(event, RepairResult):
                result = event
                break
        if result.total and not dry_run:
            if terminal is not None:
                drift = amount(result.total, "case of drift", "cases of drift")
                question = f"{context.docora.servers}: repair {drift}?"
                terminal.ask(question, Listing(FOUND, result.by_app, 20))
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
        counts = (result.by_kind, result.counts)
        data = RepairData(repair_message(result), dry_run, *counts, result.repaired)
        context.show_document(data, lost)
    elif result.total:
        context.show_tables(repair_screens(result))
    else:
        context.show_tables([repair_message(result)])
    if dry_run:
        context.say(f"{context.docora.servers}: dry run, nothing was changed.")
    stopped = f"Stopped after {result.completed} of {result.total}"
    if lost:
        return context.report(lost, f"{stopped}.", _NEXT_STEP)
    if is_cut_short:
        context.warn(f"{stopped}; {_NEXT_STEP}.")
        return interrupted_code()
    has_problems = result.counts[RepairOutcome.NOT_REPAIRED]
    return ExitCode.PROBLEMS if has_problems else ExitCode.OK


def repair_message(result: RepairResult) -> str:
    """Returns the result in two or three words."""
    if not result.total or result.dry_run:
        return "Dry run" if result.total else "Nothing to repair"
    return "Repair done" if result.completed >= result.total else "Repair stopped"


FOUND: Sequence[Column[AppDrift]] = (
    Column("App", lambda drift: drift.app_name or drift.app_id),
    Column("Drift", lambda drift: words(drift.kind)),
    Column("Found", lambda drift: drift.total, is_number=True),
)


def repair_screens(result: RepairResult) -> Iterator[object]:
    """Shows the counts by app and kind, then the unrepaired cases or, in a dry run, all cases."""
    from docora_ops.actions.repairs import AppDrift, RepairOutcome

    done = "Outcome" if result.dry_run else "Done"

    def in_words(outcome: RepairOutcome) -> str:
        return planned(outcome, is_planned=result.dry_run)

    def counts(by_outcome: Mapping[RepairOutcome, int]) -> str:
        present = (outcome for outcome in RepairOutcome if by_outcome.get(outcome))
        return ", ".join(f"{by_outcome[outcome]} {in_words(outcome)}" for outcome in present)

    by_app = (*FOUND, Column[AppDrift](done, lambda drift: counts(drift.counts)))
    links: Sequence[Column[Repaired]] = (
        Column("Link", lambda item: link_name(item.drift), narrowest=16),
        Column("Drift", lambda item: words(item.drift.kind)),
        Column(done, lambda item: in_words(item.outcome), lambda item: style_of(item.outcome)),
        Column("Why", lambda item: item.error_message, folds=True),
        Column("Job id", lambda item: item.drift.job_id, left_out=1),
    )
    totals = f"{repair_message(result)}: {counts(result.counts) or 'nothing'}."
    yield from (cell(totals), "", Listing(by_app, result.by_app))
    failed = [item for item in result.repaired if item.outcome is RepairOutcome.NOT_REPAIRED]
    if result.dry_run:
        yield from ("", Listing(links, result.repaired))
    elif failed:
        yield from ("", Listing(links, failed, ROWS_SHOWN))
