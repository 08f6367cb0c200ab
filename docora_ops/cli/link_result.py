"""What `retry` and `resync` of one link have in common: showing the result."""

from __future__ import annotations

from docora_ops.bulk import BulkResult
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode, exit_code_of
from docora_ops.cli.signals import interrupted_code
from docora_ops.cli.waiting import Wait, wait_for_link
from docora_ops.errors import ServerError
from docora_ops.jobs import Surroundings
from docora_ops.links import LinkResult, PlannedLink
from docora_ops.waits import WaitEnd

_CODES = {
    WaitEnd.SYNCED: ExitCode.OK,
    WaitEnd.FAILED: ExitCode.SNAPSHOT_FAILED,
    WaitEnd.GONE: ExitCode.PROBLEMS,
    WaitEnd.LOST: ExitCode.PROBLEMS,
    WaitEnd.TIMEOUT: ExitCode.TIMED_OUT,
}
_SENTENCES = {
    WaitEnd.SYNCED: "The snapshot is done.",
    WaitEnd.FAILED: "The snapshot failed again.",
    WaitEnd.GONE: "The link was removed: there is nothing to wait for.",
    WaitEnd.LOST: "The link has no live job. To queue it again: docora-ops repair {}",
    WaitEnd.TIMEOUT: "Time ran out; the job goes on. To look at it: docora-ops show {}",
    WaitEnd.INTERRUPTED: "No longer waiting; the job goes on. To look at it: docora-ops show {}",
}


def show_result(
    context: Context,
    result: LinkResult,
    surroundings: Surroundings,
    *,
    dry_run: bool,
    as_json: bool,
    wait: Wait | None = None,
) -> int:
    """Print what was done with a link, or would be, and what came of it. Returns the exit code."""
    from docora_ops.render import bulk
    from docora_ops.render import link_result as render

    payload = result.link.payload
    planned = PlannedLink(
        app_id=payload.app_id,
        app_name=payload.app_name,
        repository_id=payload.repository_id,
        repository_name=payload.repository_name,
        outcome=result.outcome,
    )
    if dry_run and as_json:
        counts = BulkResult(
            action=result.action,
            operation_id=None,
            total=1,
            counts={result.outcome: 1},
            by_app={},
            deliveries_cleared=result.deliveries_cleared,
        )
        context.show_text(bulk.encode_plan(counts, [planned]))
    elif dry_run:
        context.show(*bulk.plan_tables([planned], context.out.width))
        context.say("Dry run: nothing was changed.")
    elif as_json and wait is None:
        context.show_document(render.document(result, surroundings.workers))
    elif not as_json:
        context.show(render.table(result))
        context.say("{}: {}.", context.servers, render.message(result))
    if result.audit_error:
        context.say(
            "Warning: the change was made, but history shows it as not finished: {}",
            result.audit_error,
            style="yellow",
        )
    if wait is None:
        return ExitCode.OK
    return _show_wait(context, wait, result, surroundings.workers, as_json=as_json)


def _show_wait(
    context: Context, wait: Wait, result: LinkResult, workers: int, *, as_json: bool
) -> int:
    from docora_ops.render import error as errors
    from docora_ops.render import link_result as render
    from docora_ops.render.waiting import link_table

    try:
        waited = wait_for_link(context, wait, result, workers)
    except ServerError as error:
        if as_json:
            context.show_document(errors.document(error, render.document(result, workers)))
        context.say("Error: {}", error.message, style="bold red")
        context.say("Hint: the job goes on; {}", error.hint or "")
        return exit_code_of(error)
    if as_json:
        context.show_document(render.document(result, workers, waited))
    else:
        context.show(link_table(waited))
    ref = result.link.ref
    context.say(_SENTENCES[waited.result], ref.words)
    return interrupted_code() if waited.result is WaitEnd.INTERRUPTED else _CODES[waited.result]
