"""`retry-all-failed`, `resync --all` and `schedule`: the question, the progress and the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from docora_ops import actions
from docora_ops.actions import BulkStep, ChangeOptions
from docora_ops.bulk import BulkResult, StoppedBy
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.link_command import in_words, reset_in_words, sent_again
from docora_ops.cli.signals import interrupted_code, stopping_on_signals, until_stopped
from docora_ops.cli.streams import write_at_once
from docora_ops.cli.terminal import Terminal
from docora_ops.cli.wait import end_wait, showing_wait
from docora_ops.errors import RedisError, ServerError
from docora_ops.interrupts import Stop
from docora_ops.links import Action, Outcome
from docora_ops.render import bulk_view as render
from docora_ops.render.console import progress_bar
from docora_ops.render.link_view import FORGOTTEN, app_counts, failures, records_in_words
from docora_ops.text import amount

_AFTER_LOST_REDIS = (
    "; if Redis has lost writes, as it may in a failover, docora-ops repair queues the links whose "
    "jobs are gone"
)


def run_bulk(
    context: Context,
    events: Generator[BulkStep],
    options: ChangeOptions,
    terminal: Terminal | None = None,
) -> int:
    """Asks at the terminal, carries the operation out and shows the result.

    The first signal ends the operation after its batch, a second one at once. If a server is lost,
    shows what was done by then. Returns the exit code.
    """
    with closing(events):
        step = next(events)
        context.collect_garbage()
        if options.dry_run or not step.result.total:
            if options.dry_run:
                over = f"dry run over {_links_of(step)}, nothing will be changed"
                context.say(f"{context.docora.servers}: {over}.")
            *_, step = step, *events
            return _finish(context, step, options, Stop())
        if terminal is not None:
            _ask(context, terminal, step, options)
        return _carry_out(context, events, step, options)


def _carry_out(
    context: Context, events: Generator[BulkStep], step: BulkStep, options: ChangeOptions
) -> int:
    docora, stop = context.docora, Stop()
    action, total = step.result.action, step.result.total
    next_step = _next_step(action)
    error: ServerError | None = None

    def stop_at_once() -> None:
        try:
            write_at_once(f"Stopped: {next_step}.\n")
            if step.result.operation_id:
                actions.cancel_at_once(docora, step.result.operation_id)
        finally:
            os._exit(interrupted_code())  # Postgres rolls back what is not committed

    with stopping_on_signals(stop, stop_at_once):
        try:
            step = next(events)
            begun = f"operation {step.result.operation_id}, {_links_of(step)}"
            if action is Action.SCHEDULE:
                begun = f"{_links_of(step)} due"
            context.say(f"{docora.servers}: {begun}.")
            with _progress(context, total, options) as show:
                while not (stop.requested or step.is_waiting) and (found := next(events, None)):
                    step = found
                    show(step)
            if stop.requested:
                events.close()
        except ServerError as lost:
            error = lost
        if error or stop.requested:
            why = StoppedBy.LOST_SERVER if error else StoppedBy.INTERRUPTED
            step = replace(step, result=step.result.stopped(why))
        # Signals are still handled here: none may cut the document in two.
        if error or not (step.wait and context.as_json):
            _show(context, step, options, error, is_last=not (step.wait or stop.requested))
        if error:
            done = f"Stopped after {step.result.completed} of {total} links."
            is_in_doubt = isinstance(error, RedisError) and action is Action.RETRY
            return context.report(error, done, next_step + _AFTER_LOST_REDIS * is_in_doubt)
    if step.is_waiting and step.wait and step.wait.total:
        try:
            what = amount(step.wait.total, "snapshot")
            awaited = until_stopped(events, stop)
            step = next(awaited, step)  # from here on, a signal ends the wait only
            with showing_wait(context, what, step.wait) as show_wait:
                for step in awaited:
                    show_wait(step.wait)
        except ServerError as lost:
            error = lost
        context.tell()
    return _finish(context, step, options, stop, error)


def _ask(context: Context, terminal: Terminal, step: BulkStep, options: ChangeOptions) -> None:
    docora = context.docora
    above: list[object] = [app_counts(step.chosen)] if len(step.chosen) > 1 else []
    end = in_words(options)
    if step.result.action is Action.RETRY:
        question = reset_in_words(docora, _links_of(step), "their snapshot jobs") + end
    else:
        links, files = amount(step.result.total, "link"), amount(step.deliveries, "file")
        question = (
            f"send {step.chosen[0].app_name}, over {links}, {files} "
            f"{sent_again(options)} the delivery records, "
            f"{reset_in_words(docora, 'the links', 'their snapshot jobs')}{end})"
        )
        if not options.update:
            above.append(FORGOTTEN)
    context.tell()
    terminal.ask(f"{docora.servers}: {question}?", *above)


@contextmanager
def _progress(
    context: Context, total: int, options: ChangeOptions
) -> Iterator[Callable[[BulkStep], None]]:
    """Shows how far the work is; with `--in-flight`, the wait for the snapshots, too."""
    if not options.is_paced:
        with progress_bar(context.err, total) as move:
            yield lambda step: move(step.result.completed)
        return
    has_told = False
    pace = in_words(replace(options, front=False, reset_circuit=False))
    with showing_wait(context, f"{amount(total, 'snapshot')}{pace}") as show_wait:

        def show(step: BulkStep) -> None:
            nonlocal has_told
            result = step.result
            if result.stopped_by and not has_told:
                has_told = True
                why = render.stopped(result, options.max_failures)
                context.warn(f"No further link is queued: {why}.")
            left = 0 if result.cancelled else result.left
            show_wait(step.wait, left, result.taken_over or 0)

        yield show


def _finish(
    context: Context,
    step: BulkStep,
    options: ChangeOptions,
    stop: Stop,
    error: ServerError | None = None,
) -> int:
    """Shows the result, with `--wait` that of the snapshots. Returns the exit code."""
    result, waited = step.result, step.wait
    if waited is None:
        if options.dry_run or not result.total:
            _show(context, step, options)
        elif result.operation_id and result.put_to_work and sys.stderr.isatty():
            context.say(f"To wait for the results: docora-ops wait {result.operation_id}")
        return gravest(_codes(result, stop))
    if context.as_json:
        context.show_document(render.bulk_data(result, waited), error)
    else:
        if not result.total:
            _show(context, step, options, is_last=False)
        context.show_tables(render.wait_screens(waited), is_last=not (error or stop.requested))
    if error:
        return context.report(error, next_step="the jobs go on")
    interrupted = stop.requested
    codes = end_wait(context, waited, operation_id=result.operation_id, interrupted=interrupted)
    if options.is_paced and result.stopped_by:
        why = render.stopped(result, options.max_failures)
        next_step = _next_step(result.action)
        if result.stopped_by is StoppedBy.MAX_FAILURES and result.action is Action.RETRY:
            next_step = "the same command begins again, first with those that failed"
        were = "was left as it was" if result.left == 1 else "were left as they were"
        left = f"{amount(result.left, 'link')} {were}"
        context.warn(f"Stopped: {why}. {left}. Later, {next_step}.")
    if result.taken_over:
        taken = f"{amount(result.taken_over, 'link')} had been queued or changed before"
        context.warn(f"{taken}, by a scheduler or somebody else.")
    return gravest(_codes(result, stop) | codes)


def _show(
    context: Context,
    step: BulkStep,
    options: ChangeOptions,
    error: ServerError | None = None,
    *,
    is_last: bool = True,
) -> None:
    """Shows what was done until now, and in JSON the error that has ended it."""
    result = step.result
    waited = step.wait if error and options.is_paced else None
    if context.as_json:
        context.show_document(render.bulk_data(result, waited), error)
    else:
        context.show_tables(_summary(context, step, options), is_last=is_last and not error)
        if result.deliveries_cleared:
            context.say(FORGOTTEN)
        if options.dry_run:
            context.say("Dry run: nothing was changed.")
        elif result.cancelled and not options.is_paced:
            by = f" by {result.cancelled_by}" if result.cancelled_by else ""
            done = f"Cancelled{by} after {result.completed} of {result.total} links"
            context.warn(f"{done}; {_next_step(result.action)}.")
        if waited:
            context.show_tables(render.wait_screens(waited), is_last=False)


def _summary(context: Context, step: BulkStep, options: ChangeOptions) -> Iterator[object]:
    """Yields the counts, then the links that could not be queued, then those of a dry run."""
    result = step.result
    if result.total:
        yield render.summary(step.by_app)
    else:
        yield render.message(result)
    if notes := list(_notes(context, result, options)):
        yield from ("", *notes)
    if result.failures:
        yield from ("", failures(result.failures))
    if result.planned_links:
        yield from ("", render.planned_list(result.planned_links))


def _notes(context: Context, result: BulkResult, options: ChangeOptions) -> Iterator[str]:
    """Yields what the table does not tell."""
    if result.action is Action.RESYNC and result.total:
        count = result.deliveries_cleared or result.deliveries_marked or 0
        what = records_in_words(count, update=options.update, is_planned=options.dry_run)
        yield f"{what}."
    if options.front and (waited := result.counts.get(Outcome.ALREADY_QUEUED, 0)):
        yield f"{amount(waited, 'job')} waited already: --front moves none of these."
    if result.circuits_reset:
        verb = "would be reset" if options.dry_run else "reset"
        yield f"{amount(result.circuits_reset, 'circuit')} {verb}."
    if result.circuits_held:
        held = amount(result.circuits_held, "circuit")
        yield f"{held} not reset: another session holds the row of the repository."
    if result.open_circuits_left_out:
        why = "the circuit of the repository is open."
        left_out = amount(result.open_circuits_left_out, "link")
        # Without a link to change, the message has counted them.
        yield f"{left_out} left out: {why}" if result.total else why.capitalize()
        if context.docora.queue.is_docoras:
            yield "To close the circuits, and reset these links, too: add --reset-circuit."


def _codes(result: BulkResult, stop: Stop) -> set[ExitCode]:
    """Returns every exit code that fits the operation."""
    codes = {ExitCode.PROBLEMS if result.failures or result.circuits_held else ExitCode.OK}
    if result.cancelled:
        codes.add(interrupted_code() if stop.requested else _STOPPED[result.stopped_by])
    return codes


_STOPPED: dict[StoppedBy | None, ExitCode] = {
    StoppedBy.CANCELLED: ExitCode.PROBLEMS,
    StoppedBy.LOST_JOBS: ExitCode.PROBLEMS,
    StoppedBy.MAX_FAILURES: ExitCode.SNAPSHOT_FAILED,
    StoppedBy.TIMEOUT: ExitCode.TIMED_OUT,
}


def _links_of(step: BulkStep) -> str:
    """Counts the links; names the app if all are of one."""
    links = amount(step.result.total, "link")
    return f"{links} of {step.chosen[0].app_name}" if len(step.chosen) == 1 else links


def _next_step(action: Action) -> str:
    if action is Action.RESYNC:
        return "the same command begins again, with all of them"
    return "the same command finishes the rest"
