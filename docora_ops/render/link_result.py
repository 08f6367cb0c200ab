"""`retry` and `resync` of one link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docora_ops.jobs import when_docora_queues
from docora_ops.links import Action, LinkResult, Outcome
from docora_ops.render.bulk import deliveries, outcome_label, records_in_words
from docora_ops.render.cells import cell, failed_tries, style_of, with_id
from docora_ops.render.json import Document
from docora_ops.render.layout import pairs
from docora_ops.text import duration, moment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from docora_ops.waits import LinkWait

_MESSAGES = {Action.RETRY: "Retry queued", Action.RESYNC: "Re-sync queued"}


def message(result: LinkResult, workers: int) -> str:
    """Returns the result in the dashboard's words where it has them. `workers`: live ones."""
    if result.dry_run:
        return "Dry run"
    if result.outcome is Outcome.ALREADY_RUNNING:
        return "Snapshot already running"
    if result.outcome is Outcome.RESET:
        when = when_docora_queues(workers, result.scan_interval)
        return f"Link reset: Docora's scheduler queues it {when}"
    return _MESSAGES[result.action]


def document(result: LinkResult, workers: int, wait: LinkWait | None = None) -> Document:
    """Returns the JSON of a result: Docora's `RetryResponse` and further fields."""
    link = result.link
    data: Document = {"message": message(result, workers)}
    if result.dry_run:
        data["dry_run"] = True
    data |= {
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
        "worker_count": workers,
    }
    if result.circuit_reset is not None:
        data["circuit_reset"] = result.circuit_reset
    if result.action is Action.RESYNC:
        data |= deliveries(result)
    if wait is not None:
        data["waited"] = wait
    return {"data": data}


def table(result: LinkResult) -> RenderableType:
    """Shows the link as it was before, and the outcome."""
    link = result.link
    shown = pairs(
        [
            ("App", cell(with_id(link.payload.app_name, link.ref.app_id))),
            ("Repository", cell(with_id(link.payload.repository_name, link.ref.repository_id))),
            ("Was", cell(f"{link.status}, {failed_tries(link.retry_count)}")),
        ]
    )
    if link.error_message is not None:
        shown.add_row("Last error", cell(link.error_message))
    label = outcome_label(result.outcome, planned=result.dry_run)
    shown.add_row("Outcome", cell(label, style_of(result.outcome)))
    shown.add_row("Job", cell(link.ref.job_id))
    if result.action is Action.RESYNC:
        shown.add_row("Files", cell(records_in_words(result, is_planned=result.dry_run)))
    if link.circuit_open_until:
        # A dry run shows the circuit as it is, and then what would become of it.
        open_until = (link if result.dry_run else result).circuit_open_until
        if open_until and link.circuit_is_open:
            left = duration((open_until - link.read_at).total_seconds())
            until = f"open until {moment(open_until)} (in {left}) after git failures"
            shown.add_row("Circuit", cell(until, "yellow"))
            shown.add_row("", cell(_meaning(result)))
        else:
            shown.add_row("Circuit", cell("closed"))
    return shown


def _meaning(result: LinkResult) -> str:
    """Tells what the open circuit means for the job, and what would close it."""
    if result.circuit_reset:
        return "--reset-circuit would close it now"
    if result.dry_run and result.outcome.succeeded:
        return "only the scheduler waits for that; --reset-circuit would close it"
    return "only the scheduler waits for that, this job does not"
