"""`progress`. Needs only Redis."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.long_run import progress_bar

if TYPE_CHECKING:
    from docora_ops.bulk import Progress

_POLL = 0.5
_SILENCE = 3
"""Seconds without a step after which the runner is checked."""


def progress(
    typer_context: typer.Context,
    operation_id: options.OperationId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the operation ends.")
    ] = False,
    as_json: options.Json = False,
) -> int:
    """Show how far a bulk operation is: ours, or one of Docora's dashboard."""
    context = context_of(typer_context)
    from docora_ops.render import operations as render

    found = context.store.read(operation_id)
    if follow:
        found = _follow(context, found)
    failures = context.store.read_failures(operation_id)
    context.show(render.progress_document(found, failures), render.progress_tables(found, failures))
    if follow and (found.cancelled or found.failed or not found.finished):
        return ExitCode.PROBLEMS
    return ExitCode.OK


def _follow(context: Context, operation: Progress) -> Progress:
    """Shows each step on stderr until the operation ends or has lost its runner."""
    from docora_ops.render.console import may_animate

    context.collect_garbage()
    last_step = time.monotonic()
    with progress_bar(context, operation.total) as move:
        move(operation.completed)
        while not operation.finished:
            time.sleep(_POLL)
            before = operation
            operation = context.store.read(operation.operation_id)
            if operation != before:
                last_step = time.monotonic()
                move(operation.completed)
                if not may_animate(sys.stderr):
                    context.say(f"{operation.completed} of {operation.total}")
            elif operation.cancelled:
                break
            elif time.monotonic() - last_step > _SILENCE and context.store.has_lost_its_runner(
                operation.operation_id
            ):
                context.warn(
                    "Its runner has been silent for two minutes: it has been killed, or hangs. The "
                    "command that started it can be run again."
                )
                break
    return operation
