"""`operations`, `progress` and `cancel`. All need only Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli.audit_note import change_note, require_reason
from docora_ops.cli.context import Context, context_of, require_text
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.options import JsonOption, OperationArgument, ReasonOption

if TYPE_CHECKING:
    from docora_ops.bulk import Progress

_POLL = 0.5
_SILENCE = 3
"""Seconds without a step after which the runner is looked for."""


def list_operations(typer_context: typer.Context, as_json: JsonOption = False) -> int:
    """Show the bulk operations that are still known: ours, and those of Docora's dashboard.

    An operation whose runner has been silent for two minutes has lost it.
    """
    context = context_of(typer_context)
    from docora_ops.actions import operations
    from docora_ops.render import documents, tables

    found = operations.known_operations(context.store)
    if as_json:
        context.show_document(documents.operations(found))
    elif found:
        context.show(tables.operations(found, context.out.width))
    else:
        context.say("No bulk operation is known: one is forgotten an hour after its last step.")
    return ExitCode.OK


def progress(
    typer_context: typer.Context,
    operation_id: OperationArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the operation ends.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Show how far a bulk operation is: ours, or one of Docora's dashboard."""
    context = context_of(typer_context)
    require_text("OPERATION_ID", operation_id)
    from docora_ops.actions import operations
    from docora_ops.render import documents, tables

    found = operations.progress(context.store, operation_id)
    if follow:
        found = _follow(context, found)
    failures = operations.failures(context.store, operation_id)
    if as_json:
        context.show_document(documents.progress(found, failures))
    else:
        context.show(tables.progress(found))
        if failures.items:
            context.show("", tables.failures(failures.items, failures.total))
    if follow and (found.cancelled or found.failed or not found.finished):
        return ExitCode.PROBLEMS
    return ExitCode.OK


def cancel(
    typer_context: typer.Context,
    operation_id: OperationArgument,
    reason: ReasonOption = None,
    as_json: JsonOption = False,
) -> int:
    """Ask a bulk operation, ours or the dashboard's, to stop before its next batch.

    What it has queued stays queued; a bulk retry, run again, finishes the rest.
    """
    context = context_of(typer_context)
    require_text("OPERATION_ID", operation_id)
    require_reason(reason)
    from docora_ops.actions import operations
    from docora_ops.render import documents
    from docora_ops.render.cells import cell

    operations.cancel(context.store, operation_id, change_note("cancel", reason))
    if as_json:
        context.show_document(documents.cancelled(operation_id))
    else:
        context.show(cell(f"Cancellation requested: {operation_id}"))
    return ExitCode.OK


def _follow(context: Context, operation: Progress) -> Progress:
    """Wait for the end of an operation or of its runner, showing each step on stderr."""
    from docora_ops.actions import operations

    context.collect_garbage()
    last_step = time.monotonic()
    while not operation.finished:
        time.sleep(_POLL)
        before = operation
        operation = operations.progress(context.store, operation.operation_id)
        if operation != before:
            last_step = time.monotonic()
            context.say("{} of {}", operation.completed, operation.total)
        elif operation.cancelled:
            break
        elif time.monotonic() - last_step > _SILENCE and operations.has_lost_its_runner(
            context.store, operation.operation_id
        ):
            context.say(
                "Its runner has been silent for two minutes: it has been killed, or hangs. The "
                "command that started it can be run again.",
                style="yellow",
            )
            break
    return operation
