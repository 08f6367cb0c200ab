"""`cancel`. Needs only Redis."""

from __future__ import annotations

import typer

from docora_ops.cli import options
from docora_ops.cli.change import describe_change
from docora_ops.cli.context import context_of


def cancel(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Ask a bulk operation, ours or the dashboard's, to stop before its next batch.

    What it has queued stays queued; a bulk retry, run again, finishes the rest.
    """
    context = context_of(typer_context, as_json=as_json)
    from docora_ops.queue.audit_stream import cancel_entry
    from docora_ops.render import operations as render
    from docora_ops.render.cells import cell

    context.store.cancel(
        operation_id, cancel_entry(describe_change("cancel", reason), operation_id)
    )
    requested = cell(f"Cancellation requested: {operation_id}")
    context.show(render.cancel_document(operation_id), [requested])
