"""`retry` or `resync` of one link: the result, and the wait for the snapshot."""

from docora_ops import actions
from docora_ops.actions import Docora
from docora_ops.bulk import ChangeOptions
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.links import LinkResult, Outcome
from docora_ops.render import link_view as render


def reset_in_words(docora: Docora, links: str) -> str:
    """Returns what happens to links and their jobs, for a question."""
    if docora.queue.is_docoras:
        return f"reset {links}, so that Docora's scheduler queues a snapshot job for each"
    return f"reset {links} and queue a snapshot job for each"


def show_change(context: Context, result: LinkResult, options: ChangeOptions) -> int:
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
    if options.front and result.outcome is Outcome.ALREADY_QUEUED:
        context.say("The job was waiting already and keeps its place: --front moves no job.")
    if not context.wait:
        return ExitCode.OK
    from docora_ops.cli.wait import wait_for_link

    steps = actions.wait_for_change(context.docora, result, timeout=context.timeout)
    return wait_for_link(context, steps, result)
