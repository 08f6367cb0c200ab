"""`retry` and `resync` of one link."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import RenderableType

from docora_ops.links import Action, LinkResult, Outcome
from docora_ops.render import waiting
from docora_ops.render.bulk import LABELS, STYLES
from docora_ops.render.cells import cell, retries, with_id
from docora_ops.render.json import Document
from docora_ops.render.layout import pairs
from docora_ops.text import moment
from docora_ops.waits import LinkWait

_MESSAGES = {Action.RETRY: "Retry queued", Action.RESYNC: "Re-sync queued"}


def message(result: LinkResult) -> str:
    """Returns the result in the dashboard's words where it has them."""
    if result.outcome is Outcome.ALREADY_RUNNING:
        return "Snapshot already running"
    return _MESSAGES[result.action]


def document(result: LinkResult, workers: int, wait: LinkWait | None = None) -> Document:
    """Returns the JSON of a result: Docora's `RetryResponse` and further fields."""
    link = result.link
    data: Document = {
        "message": message(result),
        "job_id": link.ref.job_id,
        "outcome": result.outcome,
        "app_id": link.ref.app_id,
        "app_name": link.payload.app_name,
        "repository_id": link.ref.repository_id,
        "repository_name": link.payload.repository_name,
        "previous": {
            "status": link.status,
            "retry_count": link.retry_count,
            "error_message": link.error_message,
        },
        "circuit_open_until": result.circuit_open_until,
        "workers": workers,
    }
    if result.action is Action.RESYNC:
        data["deliveries_cleared"] = result.deliveries_cleared
    if wait is not None:
        data |= waiting.link_fields(wait)
    return {"data": data}


def table(result: LinkResult) -> RenderableType:
    """Shows the link as it was before, and the outcome."""
    link = result.link
    shown = pairs()
    shown.add_row("App", cell(with_id(link.payload.app_name, link.ref.app_id)))
    shown.add_row("Repository", cell(with_id(link.payload.repository_name, link.ref.repository_id)))
    shown.add_row("Was", cell(f"{link.status}, {retries(link.retry_count)}"))
    if link.error_message is not None:
        shown.add_row("Last error", cell(link.error_message))
    shown.add_row("Outcome", cell(LABELS[result.outcome], STYLES[result.outcome]))
    shown.add_row("Job", cell(link.ref.job_id))
    if result.action is Action.RESYNC:
        shown.add_row("Files", cell(f"{result.deliveries_cleared} to send again"))
    if result.circuit_reset:
        shown.add_row("Circuit", cell("closed"))
    elif link.circuit_open_until and link.circuit_open_until > datetime.now(UTC):
        until = f"open until {moment(link.circuit_open_until)}"
        shown.add_row("Circuit", cell(until, "yellow"))
    return shown
