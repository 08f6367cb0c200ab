"""`operations`, `progress` and `cancel`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from rich.console import RenderableType
from rich.text import Text

from docora_ops.bulk import KeptFailures, KnownOperation, OperationState, Progress
from docora_ops.render.bulk import failures as failures_table
from docora_ops.render.cells import cell
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import pairs, records

_STATE_STYLES = {
    OperationState.RUNNING: "cyan",
    OperationState.DONE: "green",
    OperationState.CANCELLED: "yellow",
    OperationState.OWNER_GONE: "bold red",
}


def list_document(operations: Iterable[KnownOperation]) -> Document:
    """Returns the JSON of `operations`."""
    return {
        "data": [
            {
                **fields_of(operation.progress),
                "state": operation.state,
                "last_step_at": operation.last_step_at,
            }
            for operation in operations
        ]
    }


def list_table(operations: Iterable[KnownOperation], width: int) -> RenderableType:
    """Shows the operations with their progress and state."""
    rows = [
        (
            cell(operation.progress.operation_id),
            cell(f"{operation.progress.completed} of {operation.progress.total}"),
            cell(operation.progress.succeeded),
            _failed(operation.progress),
            cell(operation.state.replace("_", " "), _STATE_STYLES[operation.state]),
            cell(_ago(operation.silence)),
        )
        for operation in operations
    ]
    numbers = ("Completed", "Succeeded", "Failed")
    return records(("Operation", *numbers, "State", "Last step"), rows, width, numbers)


def progress_document(progress: Progress, failures: KeptFailures) -> Document:
    """Returns the JSON of `progress`: Docora's `BulkProgressResponse` and the failures."""
    data = fields_of(progress) | {"failures": failures.items}
    if failures.not_kept:
        data["failures_not_kept"] = failures.not_kept
    return {"data": data}


def progress_tables(progress: Progress, failures: KeptFailures) -> Iterator[RenderableType]:
    """Shows the progress of one operation and its failures."""
    table = pairs()
    table.add_row("Operation", cell(progress.operation_id))
    table.add_row("Completed", cell(f"{progress.completed} of {progress.total}"))
    table.add_row("Succeeded", cell(progress.succeeded))
    table.add_row("Failed", _failed(progress))
    table.add_row("Cancelled", cell("yes" if progress.cancelled else "no"))
    yield table
    if failures.items:
        yield from ("", failures_table(failures.items, failures.total))


def cancel_document(operation_id: str) -> Document:
    """Returns the JSON of `cancel`."""
    return {"data": {"message": "Cancellation requested", "operation_id": operation_id}}


def _failed(progress: Progress) -> Text:
    return cell(progress.failed, "bold red" if progress.failed else "")


def _ago(silence: timedelta | None) -> str:
    if silence is None:
        return "unknown"
    minutes, seconds = divmod(int(silence.total_seconds()), 60)
    return f"{minutes} min {seconds} s ago" if minutes else f"{seconds} s ago"
