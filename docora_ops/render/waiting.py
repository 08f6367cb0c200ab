"""The results of `--wait`."""

from __future__ import annotations

from rich.console import RenderableType

from docora_ops.render.cells import cell
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import pairs
from docora_ops.waits import BulkWait, LinkWait, WaitEnd

_RESULTS = {
    WaitEnd.SYNCED: ("in sync", "green"),
    WaitEnd.FAILED: ("failed again", "bold red"),
    WaitEnd.GONE: ("the link is gone", "yellow"),
    WaitEnd.LOST: ("the job is lost", "bold red"),
}


def link_fields(wait: LinkWait) -> Document:
    """Returns the JSON fields of a wait for one link."""
    return {"waited": fields_of(wait) | {"seconds": round(wait.seconds, 1)}}


def bulk_fields(wait: BulkWait) -> Document:
    """Returns the JSON fields of a wait for many links."""
    waited = fields_of(wait) | {"seconds": round(wait.seconds, 1)}
    failed_links = waited.pop("failed_links")
    return {"waited": waited, "failed_links": failed_links}


def link_table(wait: LinkWait) -> RenderableType:
    """Shows the result of one snapshot."""
    text, style = _RESULTS.get(wait.result, (f"still {wait.status}", "yellow"))
    table = pairs()
    table.add_row("Result", cell(f"{text}, after {wait.seconds:.0f} s", style))
    if wait.error_message is not None:
        table.add_row("Error", cell(wait.error_message))
    return table


def bulk_counts(wait: BulkWait) -> str:
    """Counts the snapshots by result, and the jobs of the others by place."""
    counts = {
        "in sync": wait.synced,
        "failed again": wait.failed,
        "gone": wait.gone,
        "still to come": wait.running,
    }
    shown = ", ".join(f"{count} {label}" for label, count in counts.items() if count)
    places = fields_of(wait.jobs).items()
    jobs = ", ".join(f"{count} {place}" for place, count in places if count)
    return f"{shown} ({jobs})" if jobs else shown


def bulk_line(wait: BulkWait) -> RenderableType:
    """Shows the counts and the time in one line."""
    return cell(f"{bulk_counts(wait)}, after {wait.seconds:.0f} s")
