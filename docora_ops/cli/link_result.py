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
    from docora_ops.render import documents, tables

    payload = result.link.payload
    planned = PlannedLink(
        app_id=payload.app_id,
        app_name=payload.app_name,
        repository_id=payload.repository_id,
        repository=payload.repository,
        outcome=result.outcome,
    )
    if dry_run and as_json:
        counts = BulkResult(
            operation=result.operation,
            operation_id=None,
            total=1,
            counts={result.outcome: 1},
            by_app={},
            deliveries_cleared=result.deliveries_cleared,
        )
        context.show_text(documents.encode_dry_run(counts, [planned]))
    elif dry_run:
        context.show(*tables.plan([planned], context.out.width))
        context.say("Dry run: nothing was changed.")
    elif as_json and wait is None:
        context.show_document(documents.link_result(result, surroundings.workers))
    elif not as_json:
        context.show(tables.link_result(result))
        context.say("{}: {}.", context.servers, documents.link_message(result))
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
    from docora_ops.render import documents, tables

    try:
        waited = wait_for_link(context, wait, result, workers)
    except ServerError as error:
        if as_json:
            context.show_document(documents.error(error, documents.link_result(result, workers)))
        context.say("Error: {}", error.message, style="bold red")
        context.say("Hint: the job goes on; {}", error.hint or "")
        return exit_code_of(error)
    if as_json:
        context.show_document(documents.link_result(result, workers, waited))
    else:
        context.show(tables.link_wait(waited))
    ref = result.link.ref
    context.say(_SENTENCES[waited.end], ref.words)
    return interrupted_code() if waited.end is WaitEnd.INTERRUPTED else _CODES[waited.end]
