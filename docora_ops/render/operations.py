"""`operations`, `progress` and `cancel`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

from rich.console import RenderableType
from rich.text import Text

from docora_ops.bulk import KnownOperation, Progress
from docora_ops.links import LinkFailure
from docora_ops.render.cells import ago, cell, state
from docora_ops.render.json import Document
from docora_ops.render.layout import pairs, records
from docora_ops.render.short_lists import failures as failures_table


def list_table(operations: Iterable[KnownOperation], width: int) -> RenderableType:
    """Shows the operations with their progress and state."""
    numbers = ("Completed", "Queued", "Not queued")
    rows = [
        (
            cell(operation.operation_id),
            cell(f"{operation.completed} of {operation.total}"),
            cell(operation.succeeded),
            _failed(operation),
            state(operation.state),
            cell(ago(operation.last_step_seconds)),
        )
        for operation in operations
    ]
    return records(("Operation", *numbers, "State", "Last step"), rows, width, numbers=numbers)


def progress_document(
    progress: Progress, failures: Sequence[LinkFailure], failures_total: int
) -> Document:
    """Returns the JSON of `progress`: Docora's `BulkProgressResponse` and the failures."""
    return {"data": progress_fields(progress, failures, failures_total)}


def progress_fields(
    progress: Progress, failures: Sequence[LinkFailure], failures_total: int
) -> Document:
    """Returns the counts of an operation, without its state, and its failures."""
    counts = {each.name: getattr(progress, each.name) for each in fields(Progress)}
    data = counts | {"failures": failures}
    if failures_total > len(failures):
        data["failures_not_kept"] = failures_total - len(failures)
    return data


def progress_tables(
    progress: Progress, failures: Sequence[LinkFailure], failures_total: int, width: int
) -> Iterator[RenderableType]:
    """Shows the progress of one operation and its failures."""
    yield pairs(
        [
            ("Operation", cell(progress.operation_id)),
            ("Completed", cell(f"{progress.completed} of {progress.total}")),
            ("Queued", cell(progress.succeeded)),
            ("Not queued", _failed(progress)),
            ("Cancelled", cell("yes" if progress.cancelled else "no")),
        ]
    )
    if failures:
        yield from ("", failures_table(failures, width, failures_total))


def cancel_document(operation_id: str, *, is_first: bool) -> Document:
    """Returns the JSON of `cancel`, with the dashboard's message."""
    data: Document = {"message": "Cancellation requested", "operation_id": operation_id}
    return {"data": data | {"already_cancelled": not is_first}}


def _failed(progress: Progress) -> Text:
    return cell(progress.failed, "bold red" if progress.failed else "")
