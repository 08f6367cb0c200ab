"""`operations`, `progress`, `cancel` and `history`. Need only Redis."""

from typing import Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.operations import OperationState

RUNNER_IS_SILENT = (
    "The command that runs the operation has been silent for two minutes: it was killed, or hangs. "
    "It can be run again."
)


def operations(
    typer_context: typer.Context,
    limit: options.Limit = 50,
    page: options.PageNumber = 1,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> None:
    """List the bulk operations of the last hour.

    Includes those of Docora's dashboard. In the state `owner_gone`, links are left, but the command
    that runs the operation has been silent for two minutes. For those of the last week, see report.
    """
    context = context_of(typer_context)
    from docora_ops.actions.journal import operations
    from docora_ops.render.bulk_view import OPERATIONS

    found = operations(context.docora, page=page, limit=limit)
    where = f"{context.docora.redis_server}, within the last hour"
    context.show_page(found, OPERATIONS, where, "operation")


def progress(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show a bar until the operation ends.")
    ] = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Show the progress of a bulk operation.

    Also works for operations of Docora's dashboard.
    """
    context = context_of(typer_context)
    from docora_ops.actions import journal
    from docora_ops.render.bulk_view import progress_data, progress_screens
    from docora_ops.render.console import progress_bar

    if follow:
        _ = context.docora.redis  # unusable settings are told before anything moves
        with progress_bar() as move:
            for operation in journal.follow(context.docora, operation_id):
                move(operation.completed, None, operation.total)
        if operation.state is OperationState.OWNER_GONE:
            context.warn(RUNNER_IS_SILENT)
    found, failures, _ = journal.progress(context.docora, operation_id)
    context.show(progress_data(found, failures), progress_screens(found, failures))
    if follow and (found.cancelled or found.not_queued or not found.finished):
        return ExitCode.PROBLEMS
    return ExitCode.OK


def cancel(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    reason: options.Reason = None,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> None:
    """Stop a bulk operation after its current batches.

    Also works for operations of Docora's dashboard. What has been queued stays queued. To finish
    a bulk retry, run it again.
    """
    context = context_of(typer_context)
    from docora_ops.actions.journal import cancel
    from docora_ops.render.bulk_view import CancelData
    from docora_ops.render.columns import cell

    is_first = cancel(context.docora, operation_id, reason=reason)
    done = "Cancellation requested" if is_first else "Already cancelled"
    data = CancelData("Cancellation requested", operation_id, already_cancelled=not is_first)
    context.show(data, [cell(f"{done}: {operation_id}")])


def history(
    typer_context: typer.Context,
    limit: options.Limit = 20,
    page: options.PageNumber = 1,
    since: options.Since = None,
    operation: options.OfOperation = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="APP", help="Only changes with this app (id or name) among their options."
        ),
    ] = None,
    no_schedule: Annotated[
        bool, typer.Option("--no-schedule", help="Exclude the passes of schedule.")
    ] = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> None:
    """Show who changed what, when and why, latest first.

    Only changes made with docora-ops are recorded, not those of the dashboard.
    """
    context = context_of(typer_context)
    from docora_ops.actions.journal import history
    from docora_ops.render.bulk_view import HISTORY

    found = history(
        context.docora,
        schedule=not no_schedule,
        since=since,
        operation_id=operation,
        app=app,
        page=page,
        limit=limit,
    )
    context.show_page(found, HISTORY, context.docora.redis_server, "change")
