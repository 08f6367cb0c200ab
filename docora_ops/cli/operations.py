"""`operations`, `progress` and `cancel`. Need only Redis."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_change
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.long_run import progress_bar

if TYPE_CHECKING:
    from docora_ops.bulk import KnownOperation

RUNNER_IS_SILENT = (
    "The command that runs the operation has been silent for two minutes: it was killed, or hangs. "
    "It can be run again."
)
_POLL = 0.5


def operations(
    typer_context: typer.Context,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
) -> int:
    """Show the bulk operations of the last hour, those of Docora's dashboard, too.

    The state `owner_gone` means: links are left, and the command that runs the operation has been
    silent for two minutes.
    """
    context = context_of(typer_context)
    from docora_ops.cli.pages import show_page
    from docora_ops.pages import page_of
    from docora_ops.render.operation_view import operations_list
    from docora_ops.text import amount

    found = page_of(context.store.read_all(), page, limit)
    return show_page(
        context,
        found,
        operations_list(found.rows),
        where=context.redis_server,
        counted=amount(found.total, "operation"),
        nothing="no bulk operations: each is kept for an hour after its last step",
    )


def progress(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the operation ends.")
    ] = False,
    as_json: options.Json = False,
) -> int:
    """Show how far a bulk operation is, also one of Docora's dashboard."""
    context = context_of(typer_context)
    from docora_ops.render.operation_view import progress_data, progress_screens

    found = context.store.read(operation_id)
    if follow:
        found = _follow(context, found)
    failures, total = context.store.read_failures(operation_id)
    context.show(
        progress_data(found, failures, total),
        progress_screens(found, failures, total),
    )
    if follow and (found.cancelled or found.not_queued or not found.finished):
        return ExitCode.PROBLEMS
    return ExitCode.OK


def _follow(context: Context, operation: KnownOperation) -> KnownOperation:
    """Shows each step on stderr until the operation ends or has lost its runner."""
    from docora_ops.bulk import OperationState
    from docora_ops.render.console import may_animate

    context.collect_garbage()
    with progress_bar(context, operation.total) as move:
        move(operation.completed)
        while not operation.finished:
            time.sleep(_POLL)
            before = operation
            operation = context.store.read(operation.operation_id)
            moved = operation.completed != before.completed
            if moved or operation.cancelled != before.cancelled:
                move(operation.completed)
                if moved and not may_animate(sys.stderr):
                    context.say(f"{operation.completed} of {operation.total}")
            elif operation.cancelled:
                break
            elif operation.state is OperationState.OWNER_GONE:
                context.warn(RUNNER_IS_SILENT)
                break
    return operation


def cancel(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Ask a bulk operation, also one of Docora's dashboard, to stop after its current batches.

    What it has queued stays queued; a bulk retry, run again, finishes the rest.
    """
    context = context_of(typer_context)
    from docora_ops.queue.audit_stream import cancel_entry
    from docora_ops.render.columns import cell
    from docora_ops.render.operation_view import cancel_data

    change = describe_change("cancel", reason)
    entry = cancel_entry(change, operation_id)
    is_first = context.store.cancel(operation_id, entry, cancelled_by=change.who)
    done = "Cancellation requested" if is_first else "Already cancelled"
    data = cancel_data(operation_id, is_first=is_first)
    context.show(data, [cell(f"{done}: {operation_id}")])
