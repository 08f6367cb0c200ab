"""`operations`, `progress` and `cancel`. Need only Redis."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from docora_ops import actions
from docora_ops.bulk import OperationState
from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode

RUNNER_IS_SILENT = (
    "The command that runs the operation has been silent for two minutes: it was killed, or hangs. "
    "It can be run again."
)


def operations(
    typer_context: typer.Context,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """List the bulk operations of the last hour.

    Includes those of Docora's dashboard. The state `owner_gone` means that links are left, and that
    the command that runs the operation has been silent for two minutes.
    """
    context = context_of(typer_context)
    from docora_ops.render.bulk_view import OPERATIONS
    from docora_ops.render.columns import Listing
    from docora_ops.text import amount

    found = actions.operations(context.docora, page=page, limit=limit)
    return context.show_page(
        found,
        Listing(OPERATIONS, found.rows),
        where=context.docora.redis_server,
        counted=amount(found.total, "operation"),
        nothing="no bulk operations: each is kept for an hour after its last step",
    )


def progress(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep showing it until the operation ends.")
    ] = False,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Show the progress of a bulk operation.

    Works for operations of Docora's dashboard, too.
    """
    context = context_of(typer_context)
    from docora_ops.render.bulk_view import progress_data, progress_screens

    if follow:
        _follow(context, operation_id)
    found, failures, _ = actions.progress(context.docora, operation_id)
    context.show(
        progress_data(found, failures),
        progress_screens(found, failures),
    )
    if follow and (found.cancelled or found.not_queued or not found.finished):
        return ExitCode.PROBLEMS
    return ExitCode.OK


def _follow(context: Context, operation_id: str) -> None:
    """Shows each step on stderr until the operation ends or has lost its runner."""
    from docora_ops.render.console import may_animate, progress_bar

    context.collect_garbage()
    completed = None
    with progress_bar(context.err) as move:
        for operation in actions.follow(context.docora, operation_id):
            move(operation.completed, None, operation.total)
            if completed not in {None, operation.completed} and not may_animate(sys.stderr):
                context.say(f"{operation.completed} of {operation.total}")
            completed = operation.completed
    if operation.state is OperationState.OWNER_GONE:
        context.warn(RUNNER_IS_SILENT)


def cancel(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Stop a bulk operation after its current batches.

    Works for operations of Docora's dashboard, too. What has been queued stays queued. To finish
    a bulk retry, run it again.
    """
    context = context_of(typer_context)
    from docora_ops.render.bulk_view import CancelData
    from docora_ops.render.columns import cell

    is_first = actions.cancel(context.docora, operation_id, reason=reason)
    done = "Cancellation requested" if is_first else "Already cancelled"
    data = CancelData("Cancellation requested", operation_id, already_cancelled=not is_first)
    context.show(data, [cell(f"{done}: {operation_id}")])
