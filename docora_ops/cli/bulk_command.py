"""The question, progress and result of `retry-all-failed`, `resync --all` and `schedule`."""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

from docora_ops.actions.bulk import BulkStep
from docora_ops.actions.docora import Docora
from docora_ops.cli import bulk_view
from docora_ops.cli.context import Context
from docora_ops.cli.detach import Announce, detach
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.one_link import kept_in_words, records_in_words
from docora_ops.cli.terminal import Terminal, interrupted_code, is_interrupted, until_interrupted
from docora_ops.cli.waiting import end_wait, showing_wait
from docora_ops.errors import PostgresDeniedError, RedisDeniedError, ServerError
from docora_ops.links import Action, only_app
from docora_ops.operations import BulkResult, StoppedBy
from docora_ops.render.columns import cell
from docora_ops.render.console import progress_bar
from docora_ops.render.link_tables import app_counts, failures
from docora_ops.text import amount

_STOPPING = "Stopping after the current batches. A second signal stops at once."


def run_bulk(
    context: Context,
    events: Generator[BulkStep],
    terminal: Terminal | None = None,
    *,
    detached: bool = False,
) -> int:
    """Asks for confirmation, carries out the operation and shows the result. Returns the exit code.

    The first signal ends the operation after its current batch, a second one immediately. If a
    server is lost, shows what was done until then.

    detached: carry out the operation in another process, and show only its id.
    """
    with closing(events):
        step = next(events)
        if context.options.dry_run or not step.result.total:
            *_, step = step, *events
            _show(context, step)
            return gravest(_codes(step.result))
        if terminal is not None:
            _ask(context, terminal, step)
        elif step.result.action is not Action.SCHEDULE:  # a pass leaves out links of operations
            for operation in step.result.running_operations:
                context.warn(bulk_view.running(operation))
        if not detached:
            return _carry_out(context, events, step)

        def show(operation_id: str, process: int) -> None:
            _say_begun(context, operation_id, step.result.total)
            result = replace(step.result, operation_id=operation_id)
            screen = bulk_view.detached_screen(operation_id, process)
            context.show(bulk_view.bulk_data(result), [screen], footer="")

        context.tell()  # otherwise, both processes would print the notices
        # This process only closes the generator, whose first step has changed nothing.
        work = partial(_carry_out, context, events, step)
        return detach(context.docora, work, show)


def _ask(context: Context, terminal: Terminal, step: BulkStep) -> None:
    docora, total = context.docora, step.result.total
    running = map(bulk_view.running, step.result.running_operations)
    above: list[object] = [app_counts(step.by_app), *(cell(text, "yellow") for text in running)]
    question = reset_in_words(docora, amount(total, "link"), total)
    if step.result.action is Action.RESYNC:
        question = f"send {amount(step.deliveries, 'file')} again, {question}"
        if not context.options.update:
            above.append(kept_in_words())
    context.tell()
    terminal.ask(f"{docora.servers}: {question}?", *above)


def reset_in_words(docora: Docora, links: str, count: int) -> str:
    """Returns the part of a question that says what happens to links and their jobs.

    links: the links in words, such as `3 links`.
    """
    jobs = "its snapshot job" if count == 1 else "a snapshot job for each"
    if docora.queue.can_push:
        return f"reset {links} and queue {jobs}"
    return f"reset {links}, so that Docora's scheduler queues {jobs}"


def _carry_out(
    context: Context,
    events: Generator[BulkStep],
    step: BulkStep,
    announce: Announce | None = None,
) -> int:
    lost, action, total = None, step.result.action, step.result.total
    work = until_interrupted(events, _STOPPING)
    try:
        step = next(work)
        if announce:
            announce(step.result.operation_id or "")
        else:
            _say_begun(context, step.result.operation_id, total)
        with _progress(context, total, is_seen=announce is None) as show:
            for step in work:
                if step.is_waiting:
                    break
                show(step)
        if step.is_waiting and step.wait and step.wait.total:
            snapshots = amount(step.wait.total, "snapshot")
            with showing_wait(context, snapshots, step.wait) as show_wait:
                for step in until_interrupted(events):
                    show_wait(step.wait)
    except ServerError as error:
        lost = error
    finally:
        work.close()  # from here on, a signal ends the command
    if lost or is_interrupted():
        why = StoppedBy.LOST_SERVER if lost else StoppedBy.INTERRUPTED
        step = replace(step, result=step.result.stopped(why))
    if not lost or step.result.completed or context.as_json:
        _show(context, step, lost)
    result, codes = step.result, _codes(step.result)
    if lost and not result.left:
        return context.report(lost, next_step="the jobs go on")
    if lost:
        is_denied = isinstance(lost, PostgresDeniedError | RedisDeniedError)
        return context.report(lost, f"{_ended(result)}.", "" if is_denied else _next_step(action))
    if step.wait:
        to_verify = only_app([app.app_id for app in step.by_app])
        codes |= end_wait(context, step.wait, result.operation_id or "", to_verify)
    elif result.operation_id and result.put_to_work and sys.stderr.isatty():
        context.say(f"To wait for the results: docora-ops wait {result.operation_id}")
    if result.taken_over:
        taken = amount(result.taken_over, "link")
        context.warn(f"{taken} had been queued or changed before, by a scheduler or somebody else.")
    return gravest(codes)


def _say_begun(context: Context, operation_id: str | None, total: int) -> None:
    begun = f"{amount(total, 'link')} due"  # a pass of `schedule` has no operation id
    if operation_id:
        begun = f"operation {operation_id}, {amount(total, 'link')}"
    context.say(f"{context.docora.servers}: {begun}.")


@contextmanager
def _progress(
    context: Context, total: int, *, is_seen: bool
) -> Iterator[Callable[[BulkStep], None]]:
    """Shows the progress, and with `--in-flight` also the wait for the snapshots.

    is_seen: False in a detached process, which has no screen.
    """
    if not context.options.is_paced:
        with progress_bar(total) as move:
            yield lambda step: move(step.result.completed)
        return
    description = f"{amount(total, 'snapshot')}, {context.options.in_flight} in flight at most"
    has_warned = False
    showing: AbstractContextManager[Callable[..., None]] = nullcontext(lambda *_: context.tell())
    if is_seen:
        showing = showing_wait(context, description)
    with showing as show_wait:

        def show(step: BulkStep) -> None:
            nonlocal has_warned
            result = step.result
            if result.stopped_by and not has_warned:
                has_warned = True
                why = bulk_view.stopped(result.stopped_by, result.cancelled_by)
                context.warn(f"No further link is queued: {why}.")
            left = 0 if result.cancelled else result.left
            show_wait(step.wait, left, step.limit)

        yield show


def _show(context: Context, step: BulkStep, lost: ServerError | None = None) -> None:
    result = step.result
    if context.as_json:
        context.show_document(bulk_view.bulk_data(result, step.wait), lost)
        return
    if context.tells_time and not result.total:
        context.say(f"{bulk_view.message(result)}.")
        return
    counts = bulk_view.summary(step.by_app, is_planned=context.options.dry_run)
    parts: list[object] = [counts if result.total else bulk_view.message(result)]
    if notes := list(_notes(context, result)):
        parts += ["", *notes]
    if result.failures:
        parts += ["", failures(result.failures)]
    if result.planned_links:
        parts += ["", bulk_view.planned_list(result.planned_links)]
    if step.wait:
        parts += bulk_view.wait_screens(step.wait)
    context.show_tables(parts)
    if context.options.dry_run:
        context.say(f"{context.docora.servers}: dry run, nothing was changed.")
    elif result.cancelled and lost is None:
        context.warn(f"{_ended(result)}; {_next_step(result.action)}.")


def _ended(result: BulkResult) -> str:
    why = ""  # no reason if a server was lost after the last link had its outcome
    if result.stopped_by:
        why = f" ({bulk_view.stopped(result.stopped_by, result.cancelled_by)})"
    return f"Stopped{why} after {result.completed} of {result.total} links"


def _notes(context: Context, result: BulkResult) -> Iterator[str]:
    options = context.options
    if options.dry_run:
        yield from map(bulk_view.running, result.running_operations)
    if result.action is Action.RESYNC and result.total:
        count = result.deliveries_cleared or 0
        records = records_in_words(count, update=options.update, is_planned=options.dry_run)
        yield f"{records}."
        if count and not (options.update or options.dry_run):
            yield kept_in_words()
    if options.front and (waited := result.already_queued):
        yield f"{amount(waited, 'job')} already waited: --front does not move waiting jobs."
    if result.circuits_reset:
        verb = "would be reset" if options.dry_run else "reset"
        yield f"{amount(result.circuits_reset, 'circuit')} {verb}."
    if result.circuits_locked:
        locked = amount(result.circuits_locked, "circuit")
        yield f"{locked} not reset: another session holds the row of the repository."
    if result.open_circuits_left_out:
        left_out = amount(result.open_circuits_left_out, "link")
        yield f"{left_out} left out: the circuit of the repository is open."
        if not context.docora.queue.can_push:
            yield "To close the circuits, and reset these links, too: add --reset-circuit."


def _codes(result: BulkResult) -> set[ExitCode]:
    codes = {ExitCode.PROBLEMS if result.failures or result.circuits_locked else ExitCode.OK}
    if is_interrupted() and result.cancelled:
        codes.add(interrupted_code())
    elif result.stopped_by is StoppedBy.MAX_FAILURES:
        codes.add(ExitCode.SNAPSHOT_FAILED)
    elif result.stopped_by is StoppedBy.TIMEOUT:
        codes.add(ExitCode.TIMED_OUT)
    elif result.cancelled:
        codes.add(ExitCode.PROBLEMS)
    return codes


def _next_step(action: Action) -> str:
    if action is Action.RESYNC:
        return "the same command begins again, with all of them"
    return "the same command finishes the rest"
