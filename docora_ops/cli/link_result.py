"""The result of a `retry` or `resync` of one link."""

from __future__ import annotations

from docora_ops.actions.waiting.follow import Following, wait_for_one
from docora_ops.bulk import BulkResult
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.signals import interrupted_code
from docora_ops.cli.waiting import waiting
from docora_ops.errors import ServerError
from docora_ops.links import LinkResult, PlannedLink
from docora_ops.render import bulk as render_bulk
from docora_ops.render import link_result as render
from docora_ops.render import waiting as render_wait
from docora_ops.waits import WaitEnd

_GOES_ON = "the job goes on. To look at it: docora-ops show {}"
_QUEUE_AGAIN = "To queue it again: docora-ops repair {}"
_ENDS = {
    WaitEnd.SYNCED: (ExitCode.OK, "The snapshot is done."),
    WaitEnd.FAILED: (ExitCode.SNAPSHOT_FAILED, "The snapshot failed again."),
    WaitEnd.GONE: (ExitCode.PROBLEMS, "The link was removed: there is nothing to wait for."),
    WaitEnd.LOST: (ExitCode.PROBLEMS, f"The link has no live job. {_QUEUE_AGAIN}"),
    WaitEnd.TIMEOUT: (ExitCode.TIMED_OUT, f"Time ran out; {_GOES_ON}"),
    WaitEnd.INTERRUPTED: (ExitCode.INTERRUPTED, f"No longer waiting; {_GOES_ON}"),
}


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
    payload = result.link.payload
    planned = PlannedLink(
        app_id=payload.app_id,
        app_name=payload.app_name,
        repository_id=payload.repository_id,
        repository_name=payload.repository_name,
        outcome=result.outcome,
    )
    if context.as_json:
        counts = BulkResult(
            action=result.action,
            operation_id=None,
            total=1,
            counts={result.outcome: 1},
            by_app={},
            deliveries_cleared=result.deliveries_cleared,
        )
        context.show_text(render_bulk.encode_plan(counts, [planned]))
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
    context.show(render.document(result, workers, waited), [render_wait.link_table(waited)])
    code, sentence = _ENDS[waited.result]
    context.say(sentence.format(ref.words))
    return interrupted_code() if code is ExitCode.INTERRUPTED else code
