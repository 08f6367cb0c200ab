"""`retry` or `resync` of one link: the result, and the wait for the snapshot."""

from __future__ import annotations

from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.wait import await_link, end_wait
from docora_ops.errors import ServerError
from docora_ops.interrupts import Stop
from docora_ops.links import LinkResult, Outcome
from docora_ops.render import link_view as render


def show_change(context: Context, result: LinkResult, *, front: bool) -> int:
    """Shows the result of the change, with `--wait` that of the snapshot. Returns the exit code."""
    if not context.as_json:
        context.show_tables([render.result_screen(result)], is_last=not context.wait)
        if result.deliveries_cleared and not result.update:
            context.say(render.forgotten(is_planned=result.dry_run))
        if result.dry_run:
            context.say("Dry run: nothing was changed.")
        else:
            context.say(f"{context.docora.servers}: {render.message(result)}.")
    elif not context.wait:
        context.show_document(render.link_data(result, result.workers))
    if result.audit_error:
        context.warn(
            "Warning: the change was made, but history shows it as not finished: "
            f"{result.audit_error}"
        )
    if front and result.outcome is Outcome.ALREADY_QUEUED:
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
