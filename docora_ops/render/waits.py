"""`--wait`, `--in-flight` and `wait`: how far a wait is, and its result."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from docora_ops.links import Link
from docora_ops.render.cells import NO_ERROR, cell, with_id
from docora_ops.render.failures import ROWS_SHOWN, failures
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import pairs
from docora_ops.text import amount, duration
from docora_ops.waits import BulkWait, LinkWait, WaitEnd

_ENDS = {
    WaitEnd.SYNCED: ("in sync", "green"),
    WaitEnd.FAILED: ("failed again", "bold red"),
    WaitEnd.GONE: ("the link is gone", "yellow"),
    WaitEnd.LOST: ("the job is lost", "bold red"),
}


def waited_fields(wait: BulkWait) -> Document:
    """Returns what a wait adds to the JSON of an operation."""
    waited = fields_of(wait)
    groups = [{**fields_of(group), "command": group.command} for group in wait.failed_by_error]
    del waited["failed_by_error"]
    failed_links, lost_links = waited.pop("failed_links"), waited.pop("lost_links")
    return {
        "waited": waited,
        "failed_links": failed_links,
        "failed_by_error": groups,
        "lost_links": lost_links,
    }


def link_document(link: Link, workers: int, wait: LinkWait) -> Document:
    """Returns the JSON of `wait` for one link."""
    return {
        "data": {
            "message": "Snapshot awaited",
            "job_id": link.ref.job_id,
            "app_id": link.ref.app_id,
            "app_name": link.payload.app_name,
            "repository_id": link.ref.repository_id,
            "repository_name": link.payload.repository_name,
            "workers": workers,
            "waited": wait,
        }
    }


def link_tables(link: Link, wait: LinkWait) -> Iterator[RenderableType]:
    """Shows one link and the result of its snapshot."""
    yield pairs(
        [
            ("App", cell(with_id(link.payload.app_name, link.ref.app_id))),
            ("Repository", cell(with_id(link.payload.repository_name, link.ref.repository_id))),
        ]
    )
    yield wait_table(wait)


def wait_tables(wait: BulkWait, width: int) -> Iterator[RenderableType]:
    """Shows the result of the wait for the snapshots, and which failed again or have no job."""
    yield from ("", f"{wait_counts(wait)}, after {wait.seconds:.0f} s")
    if 0 < wait.failed <= ROWS_SHOWN:
        yield from ("", failures(wait.failed_links, width, heading="Failed again"))
    for group in wait.failed_by_error[:ROWS_SHOWN]:
        error = group.error_message or f"({NO_ERROR})"
        links = f"{amount(group.links, 'link')} of {amount(group.apps, 'app')}"
        yield from ("", cell(f"{links} failed again: {error}"), cell(f"  {group.command}"))
    if (more := len(wait.failed_by_error) - ROWS_SHOWN) > 0:
        yield from ("", f"and {amount(more, 'error')} more: docora-ops failed --group-by error")
    if wait.lost_links:
        yield from ("", failures(wait.lost_links, width, heading="Lost"))


def wait_counts(wait: BulkWait, left: int = 0) -> str:
    """Counts the snapshots by result, and the jobs of the others by place.

    `left`: links that were not queued yet.
    """
    places = fields_of(wait.jobs).items()
    jobs = ", ".join(f"{count} {place}" for place, count in places if count)
    counts = {
        "in sync": wait.synced,
        "failed again": wait.failed,
        "gone": wait.gone,
        f"still to come ({jobs})" if jobs else "still to come": wait.unfinished,
        "not queued yet": left,
    }
    shown = ", ".join(f"{count} {label}" for label, count in counts.items() if count)
    return f"{shown}, workers suspended" if wait.suspended else shown


def wait_progress(wait: BulkWait, left: int) -> str:
    """Returns `wait_counts` with the rate and the time that is left at that rate."""
    shown = wait_counts(wait, left)
    to_come = wait.unfinished + left
    if not (wait.per_second and to_come):
        return shown
    per_minute = wait.per_second * 60
    rate = f"{wait.per_second:.0f}/s" if wait.per_second >= 1 else f"{per_minute:.0f}/min"
    return f"{shown}, {rate}, {duration(to_come / wait.per_second)} left"


def wait_table(wait: LinkWait) -> RenderableType:
    """Shows the result of the snapshot."""
    text, style = _ENDS.get(wait.result, (f"still {wait.status}", "yellow"))
    shown = pairs([("Result", cell(f"{text}, after {wait.seconds:.0f} s", style))])
    if wait.error_message is not None:
        shown.add_row("Error", cell(wait.error_message))
    return shown
