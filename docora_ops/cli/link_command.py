"""`retry` or `resync` of one link: the result, and the wait for the snapshot."""

from __future__ import annotations

from docora_ops.actions import ChangeOptions, Docora
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.wait import await_link, end_wait
from docora_ops.errors import ServerError
from docora_ops.interrupts import Stop
from docora_ops.links import LinkResult, Outcome
from docora_ops.render import link_view as render


def reset_in_words(docora: Docora, links: str, jobs: str) -> str:
    """Returns what happens to links and their jobs, for a question."""
    if docora.queue.is_docoras:
        return f"reset {links}, so that Docora's scheduler queues {jobs}"
    return f"reset {links} and queue {jobs}"


def sent_again(options: ChangeOptions) -> str:
    """Returns how files are sent again, and what is done to their records, for a question."""
    if options.update:
        return "again as updates, and delete there what is gone from the repository (mark"
    return "again (delete"


def in_words(options: ChangeOptions) -> str:
    """Returns what options add to a question about jobs: their place, circuits and the pace."""
    words = " at the head of the queue" if options.front else ""
    if options.reset_circuit:
        words += ", and close open circuits"
    if options.in_flight is not None:
        words += f", {options.in_flight} in flight at most"
    if options.max_failures is not None:
        words += f", until more than {options.max_failures} have failed again"
    return words


def show_change(context: Context, result: LinkResult, options: ChangeOptions) -> int:
    """Shows the result of the change, with `--wait` that of the snapshot. Returns the exit code."""
    if not context.as_json:
        context.show_tables([render.result_screen(result)], is_last=not context.wait)
        if result.deliveries_cleared and not result.update:
            context.say(render.FORGOTTEN)
        if result.dry_run:
            context.say("Dry run: nothing was changed.")
        else:
            context.say(f"{context.docora.servers}: {render.message(result)}.")
    elif not context.wait:
        context.show_document(render.link_data(result, result.workers))
    if options.front and result.outcome is Outcome.ALREADY_QUEUED:
        context.say("The job was waiting already and keeps its place: --front moves no job.")
    return _wait(context, result) if context.wait else ExitCode.OK


def _wait(context: Context, result: LinkResult) -> int:
    from docora_ops.actions import wait_for_change

    stop = Stop()
    steps = wait_for_change(context.docora, result, timeout=context.timeout)
    try:
        step = await_link(context, steps, stop, "1 snapshot")
    except ServerError as error:
        if context.as_json:
            context.show_document(render.link_data(result, result.workers), error)
        return context.report(error, next_step="the job goes on")
    if context.as_json:
        context.show_document(render.link_data(result, result.workers, step.end))
    else:
        context.show_tables([render.wait_screen(step.end)], is_last=not stop.requested)
    words = result.link.ref.words
    return gravest(end_wait(context, step.wait, words, interrupted=stop.requested))
