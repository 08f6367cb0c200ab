"""`--wait`, `--in-flight` and `wait`: how far a wait is, and its result."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from docora_ops.links import Link
from docora_ops.render.cells import NO_ERROR, cell, with_id
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import pairs
from docora_ops.render.short_lists import ROWS_SHOWN, app_counts, failures
from docora_ops.text import amount, duration, inert
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
    waited["jobs_by_state"] = waited.pop("jobs")
    lists = ("failed_links", "lost_links", "unfinished_by_app")
    return {
        "waited": waited,
        "failed_by_error": groups,
        **{name: waited.pop(name) for name in lists},
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
            "worker_count": workers,
            "waited": wait,
        }
    }


def link_table(link: Link, wait: LinkWait) -> RenderableType:
    """Shows one link and the result of its snapshot."""
    return pairs(
        [
            ("App", cell(with_id(link.payload.app_name, link.ref.app_id))),
            ("Repository", cell(with_id(link.payload.repository_name, link.ref.repository_id))),
            *_result(wait),
        ]
    )


def wait_tables(wait: BulkWait, width: int) -> Iterator[RenderableType]:
    """Shows the result of the wait for the snapshots, and which failed again or have no job."""
    if not wait.total:
        return
    yield from ("", f"{wait_counts(wait)}, after {wait.seconds:.0f} s")
    if 0 < wait.failed <= ROWS_SHOWN:
        yield from ("", failures(wait.failed_links, width, heading="Failed again"))
    for group in wait.failed_by_error[:ROWS_SHOWN]:
        error = group.error_message or f"({NO_ERROR})"
        links = f"{amount(group.links, 'link')} of {amount(group.apps, 'app')}"
        yield from ("", cell(f"{links} failed again: {error}"), _command(group.command))
    if (more := len(wait.failed_by_error) - ROWS_SHOWN) > 0:
        yield from ("", f"and {amount(more, 'error')} more: docora-ops failed --group-by error")
    if wait.lost_links:
        yield from ("", failures(wait.lost_links, width, heading="Lost"))
    if wait.unfinished_by_app:
        yield from ("", "Still to come:", app_counts(wait.unfinished_by_app))


def _command(command: str) -> Text:
    """Shows a command on a line of its own, which no line break makes wrong."""
    return Text(f"  {inert(command)}", no_wrap=True, overflow="ignore")


def wait_counts(wait: BulkWait) -> str:
    """Counts the snapshots by result, and the jobs of the others by place."""
    return ", ".join(_counts(wait, 0))


def wait_progress(wait: BulkWait, left: int, taken_over: int) -> list[str]:
    """Returns the counts, the rate and the time that is left at that rate, each as one text.

    `left`: links that were not queued yet; `taken_over`: links that others have queued first. No
    forecast is made while nothing moves.
    """
    shown = [*_counts(wait, left)]
    if taken_over:
        shown.append(f"{taken_over} taken over by others")
    if wait.per_second:
        per_minute = wait.per_second * 60
        is_fast = wait.per_second >= 1
        shown.append(f"{wait.per_second:.0f}/s" if is_fast else f"{per_minute:.0f}/min")
    to_come = wait.unfinished + left
    if wait.per_second and to_come and not (wait.suspended or wait.jobs.lost):
        shown.append(f"{duration(to_come / wait.per_second)} left")
    return shown


def _counts(wait: BulkWait, left: int) -> Iterator[str]:
    jobs = ", ".join(f"{count} {place}" for place, count in fields_of(wait.jobs).items() if count)
    # The jobs were looked at some seconds ago: some may have ended.
    where = f" ({jobs})" if 0 < wait.jobs.total <= wait.unfinished else ""
    counts = {
        "in sync": wait.synced,
        "failed again": wait.failed,
        "gone": wait.gone,
        ("in flight" if left else "still to come") + where: wait.unfinished,
        "not queued yet": left,
    }
    yield from (f"{count} {label}" for label, count in counts.items() if count)
    if wait.suspended:
        yield "workers suspended"


def wait_table(wait: LinkWait) -> RenderableType:
    """Shows the result of the snapshot."""
    return pairs(_result(wait))


def _result(wait: LinkWait) -> list[tuple[str, Text]]:
    text, style = _ENDS.get(wait.result, (f"still {wait.status}", "yellow"))
    shown = [("Result", cell(f"{text}, after {wait.seconds:.0f} s", style))]
    if wait.error_message is not None:
        shown.append(("Error", cell(wait.error_message)))
    return shown
