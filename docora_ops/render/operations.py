"""`operations`, `progress` and `cancel`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from docora_ops.bulk import KnownOperation, OperationState, Progress
from docora_ops.links import LinkFailure
from docora_ops.render.cells import ago, cell, state, style_of
from docora_ops.render.history import command_line, end_of, results_of
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import pairs, records
from docora_ops.render.short_lists import failures as failures_table


def list_table(operations: Iterable[KnownOperation], width: int) -> RenderableType:
    """Shows the operations with their progress and state."""
    numbers = ("Completed", "Put to work", "Not queued")
    rows = [
        (
            cell(operation.operation_id),
            cell(f"{operation.completed} of {operation.total}"),
            cell(operation.succeeded),
            _failed(operation),
            _state(operation),
            cell(results_of(operation.results)),
            cell(ago(operation.last_step_seconds)),
            cell(operation.who or ""),
            cell(_command(operation)),
        )
        for operation in operations
    ]
    columns = ("Operation", *numbers, "State", "Results", "Last step", "Who", "What")
    return records(columns, rows, width, numbers=numbers)


def _state(operation: KnownOperation) -> Text:
    if operation.state is not OperationState.CANCELLED:
        return state(operation.state)
    end = end_of(operation.stopped_by, operation.cancelled_by)
    return cell(end, style_of(operation.state))


def _command(operation: KnownOperation) -> str:
    return command_line(operation.command, operation.selection) if operation.command else ""


def progress_document(
    operation: KnownOperation, failures: Sequence[LinkFailure], failures_total: int
) -> Document:
    """Returns the JSON of `progress`: Docora's `BulkProgressResponse` and further fields."""
    return {"data": progress_fields(operation, failures, failures_total)}


def progress_fields(
    operation: KnownOperation, failures: Sequence[LinkFailure], failures_total: int
) -> Document:
    """Returns the counts, the state and the failures of an operation."""
    data = fields_of(operation) | {"failures": failures}
    if failures_total > len(failures):
        data["failures_not_kept"] = failures_total - len(failures)
    return data


def progress_tables(
    operation: KnownOperation, failures: Sequence[LinkFailure], failures_total: int, width: int
) -> Iterator[RenderableType]:
    """Shows the progress of one operation and its failures."""
    rows = [
        ("Operation", cell(operation.operation_id)),
        ("What", cell(_command(operation))),
        ("Who", cell(operation.who or "")),
        ("Completed", cell(f"{operation.completed} of {operation.total}")),
        ("Put to work", cell(operation.succeeded)),
        ("Not queued", _failed(operation)),
        ("State", _state(operation)),
        ("Results", cell(results_of(operation.results))),
    ]
    yield pairs([row for row in rows if row[1]])
    if failures:
        yield from ("", failures_table(failures, width, failures_total))


def cancel_document(operation_id: str, *, is_first: bool) -> Document:
    """Returns the JSON of `cancel`, with the dashboard's message."""
    data: Document = {"message": "Cancellation requested", "operation_id": operation_id}
    return {"data": data | {"already_cancelled": not is_first}}


def _failed(progress: Progress) -> Text:
    return cell(progress.failed, "bold red" if progress.failed else "")
