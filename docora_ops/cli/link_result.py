"""The result of a `retry` or `resync` of one link."""

from __future__ import annotations

from docora_ops.actions.waiting.follow import Following, wait_for_one
from docora_ops.bulk import BulkResult
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, gravest
from docora_ops.cli.waiting import end_wait, waiting
from docora_ops.errors import ServerError
from docora_ops.links import LinkResult, PlannedLink
from docora_ops.render import bulk as render_bulk
from docora_ops.render import link_result as render


def show_result(context: Context, result: LinkResult, workers: int) -> int:
    """Shows the result, after the wait for the snapshot if there is one. Returns the exit code."""
    if context.dry_run:
        _show_plan(context, result)
    elif not context.as_json:
        context.show_tables(render.table(result))
        context.say(f"{context.servers}: {render.message(result)}.")
    elif not context.wait:
        context.show_document(render.document(result, workers))
    if result.audit_error:
        context.warn(
            "Warning: the change was made, but history shows it as not finished: "
            f"{result.audit_error}"
        )
    return _wait(context, result, workers) if context.wait else ExitCode.OK


def _show_plan(context: Context, result: LinkResult) -> None:
    link = result.link.payload
    planned = PlannedLink(
        link.app_id, link.app_name, link.repository_id, link.repository_name, result.outcome
    )
    if context.as_json:
        counts = {result.outcome: 1}
        cleared = result.deliveries_cleared
        plan = BulkResult(result.action, None, 1, counts, {}, deliveries_cleared=cleared)
        context.show_text(render_bulk.encode_plan(plan, [planned]))
    else:
        context.show_tables(*render_bulk.plan_tables([planned], context.out.width))
        context.say("Dry run: nothing was changed.")


def _wait(context: Context, result: LinkResult, workers: int) -> int:
    ref = result.link.ref
    following = Following(context.database, context.queue, grace=context.settings.drift_grace)
    following.add(ref, result.outcome)
    try:
        with waiting(context, following, workers, ref.words):
            waited = wait_for_one(following, ref, context.timeout)
    except ServerError as error:
        if context.as_json:
            context.show_document(render.document(result, workers), error)
        return context.report(error, next_step="the job goes on")
    context.show(render.document(result, workers, waited), [render.wait_table(waited)])
    interrupted = following.stop.requested
    return gravest(end_wait(context, following.result(), ref.words, interrupted=interrupted))
