"""`operations` and `cancel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options, progress
from docora_ops.cli.context import context_of
from docora_ops.cli.output import Column, Pairs, Part, Table, style_of
from docora_ops.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from docora_ops.queue.operations import Operation


def operations(
    typer_context: typer.Context,
    operation_id: options.OperationId = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Wait until the operation's links have their results."),
    ] = False,
    timeout: options.Timeout = None,
    limit: options.Limit = 20,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> ExitCode | None:
    """List who changed what and why, newest first.

    With OPERATION_ID, shows one operation with its failures. Every retry, resync, repair,
    cancellation and pass of schedule that queued something is kept for 30 days. With --follow,
    waits for an operation from any terminal, even after its command was killed, with the exit codes
    of --wait.
    """
    context = context_of(typer_context)
    from docora_ops.actions.operations import find, recent
    from docora_ops.actions.operations import follow as follow_operation

    if operation_id is None:
        if follow:
            raise UsageError("--follow needs OPERATION_ID", hint="docora-ops operations lists them")
        known = recent(context.docora, limit)
        context.show(known, [Table(_columns(), known)] if known else ["no operations"])
        return None
    operation = find(context.docora, operation_id)
    if follow:
        events = follow_operation(context.docora, operation_id, timeout)
        return progress.show_wait(context, events, dict(vars(operation)))
    context.show(operation, _screen(operation))
    return None


def cancel(
    typer_context: typer.Context,
    operation_id: options.OperationId = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> None:
    """Stop a running bulk operation after its current batch.

    Without OPERATION_ID, stops the only one that is running. Jobs that are queued already go on.
    """
    context = context_of(typer_context)
    from docora_ops.actions.operations import cancel

    operation = cancel(context.docora, operation_id, reason)
    message = "Cancellation requested"
    context.show({"message": message, **vars(operation)}, [f"{message}: {operation.operation_id}"])


def _columns() -> Sequence[Column[Operation]]:
    return (
        Column("Operation", lambda operation: operation.operation_id),
        Column("Action", lambda operation: operation.action),
        Column("State", lambda operation: operation.state, lambda o: style_of(o.state)),
        Column("Started at", lambda operation: operation.started_at, drop=2),
        Column("Done", done),
        Column("By", lambda operation: operation.user, drop=3),
        Column("Target", lambda operation: operation.target, drop=1, folds=True),
        Column("Reason", lambda operation: operation.reason, drop=4, folds=True),
    )


def done(operation: Operation) -> str:
    """Returns how far an operation is: `40 of 455`, or `40 of 455, 3 not queued`."""
    counted = f"{operation.completed:,} of {operation.total:,}"
    return f"{counted}, {operation.failed:,} not queued" if operation.failed else counted


def _screen(operation: Operation) -> list[Part]:
    cancelled_by = operation.cancelled_by
    counts = [(progress.words(name), count) for name, count in operation.states.items()]
    rows: list[tuple[str, object] | tuple[str, object, str | None]] = [
        ("Operation", operation.operation_id),
        ("State", operation.state, style_of(operation.state)),
        ("Action", operation.action),
        ("Target", operation.target),
        ("By", operation.user),
        ("Command", operation.command),
        ("Reason", operation.reason),
        ("Started at", operation.started_at),
        ("Ended at", operation.ended_at),
        ("Cancelled by", cancelled_by),
        ("Done", done(operation)),
        *counts,
    ]
    parts: list[Part] = [Pairs([row for row in rows if row[1]])]
    if operation.failures:
        parts += ["", Table(progress.FAILURES, operation.failures)]
    return parts
