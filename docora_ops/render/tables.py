"""Tables for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from docora_ops.bulk import BulkResult, KnownOperation, OperationState, Progress
from docora_ops.links import Action, AppCount, LinkFailure, LinkResult, Outcome, PlannedLink
from docora_ops.render.cells import cell
from docora_ops.render.layout import records
from docora_ops.text import inert, moment
from docora_ops.waits import BulkWait, LinkWait, WaitEnd

T = TypeVar("T")

FAILURES_SHOWN = 20
_APPS_SHOWN = 20
_ROWS_AT_ONCE = 500
_GAP = 3
"""Blanks that a column needs beside its text."""

LABELS = {
    Outcome.QUEUED: "queued",
    Outcome.REPLACED_STALE: "replaced stale",
    Outcome.ALREADY_QUEUED: "already queued",
    Outcome.ALREADY_RUNNING: "already running",
    Outcome.SKIPPED: "skipped",
    Outcome.FAILED: "failed",
}
_PLANNED_LABELS = LABELS | {
    Outcome.QUEUED: "would queue",
    Outcome.REPLACED_STALE: "would replace stale",
    Outcome.FAILED: "can't be queued",
}
_PLANS = _PLANNED_LABELS | {Outcome.REPLACED_STALE: "would replace a stale job"}
_STYLES = {
    Outcome.QUEUED: "green",
    Outcome.REPLACED_STALE: "green",
    Outcome.ALREADY_QUEUED: "cyan",
    Outcome.ALREADY_RUNNING: "cyan",
    Outcome.SKIPPED: "yellow",
    Outcome.FAILED: "bold red",
}
_STATE_STYLES = {
    OperationState.RUNNING: "cyan",
    OperationState.DONE: "green",
    OperationState.CANCELLED: "yellow",
    OperationState.OWNER_GONE: "bold red",
}


def amount(count: int, noun: str, plural: str | None = None) -> str:
    """`1 link`, `2 links`."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def retries(count: int) -> str:
    """`1 retry`, `2 retries`."""
    return "1 retry" if count == 1 else f"{count} retries"


def link_result(result: LinkResult) -> RenderableType:
    """One link, what it was, and what became of it."""
    link = result.link
    table = pairs()
    table.add_row("App", cell(with_id(link.payload.app_name, link.ref.app_id)))
    table.add_row("Repository", cell(with_id(link.payload.repository, link.ref.repository_id)))
    table.add_row("Was", cell(f"{link.status}, {retries(link.retry_count)}"))
    if link.last_error is not None:
        table.add_row("Last error", cell(link.last_error))
    table.add_row("Outcome", cell(LABELS[result.outcome], _STYLES[result.outcome]))
    table.add_row("Job", cell(link.ref.job_id))
    if result.operation is Action.RESYNC:
        table.add_row("Files", cell(f"{result.deliveries_cleared} to send again"))
    if result.circuit_reset:
        table.add_row("Circuit", cell("closed"))
    elif link.circuit_open_until and link.circuit_open_until > datetime.now(UTC):
        until = f"open until {moment(link.circuit_open_until)}"
        table.add_row("Circuit", cell(until, "yellow"))
    return table


def plan(links: Sequence[PlannedLink], width: int) -> Iterator[RenderableType]:
    """What would happen, link by link, some hundred rows at a time.

    Where `width` columns are too few, job ids and app ids, which are in `--json`, are left out.
    """
    columns = ("App", "Repository", "Would happen", "Job")
    return long_table(
        [(columns, _plan_cells), (columns[:3], _plan_short_cells)],
        links,
        lambda link: _STYLES[link.outcome],
        width,
    )


def long_table(
    layouts: Sequence[tuple[tuple[str, ...], Callable[[T], tuple[str, ...]]]],
    rows: Sequence[T],
    style: Callable[[T], str],
    width: int,
) -> Iterator[RenderableType]:
    """Any number of rows, some hundred at a time, by the first layout that fits, or the last.

    A layout: its columns, and from a row to as many inert texts; the third is styled.
    """
    for columns, cells in layouts:
        widths = _widths(columns, map(cells, rows))
        fits = sum(widths) + _GAP * len(widths) <= width
        if fits:
            break
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=not start, padding=(0, 1))
        for name, column_width in zip(columns, widths, strict=True):
            table.add_column(name, width=column_width if fits else None, overflow="fold")
        for row in rows[start : start + _ROWS_AT_ONCE]:
            texts = [Text(text, overflow="fold") for text in cells(row)]
            texts[2].stylize(style(row))
            table.add_row(*texts)
        yield table


def _plan_cells(link: PlannedLink) -> tuple[str, ...]:
    _, repository, would_happen = _plan_short_cells(link)
    return inert(with_id(link.app_name, link.app_id)), repository, would_happen, inert(link.job_id)


def _plan_short_cells(link: PlannedLink) -> tuple[str, ...]:
    would_happen = _PLANS[link.outcome] + (f": {link.error}" if link.error else "")
    return inert(link.app_name), inert(link.repository), inert(would_happen)


def _widths(columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> list[int]:
    widths = [len(column) for column in columns]
    for row in rows:
        widths = [max(width, cell_len(text)) for width, text in zip(widths, row, strict=True)]
    return widths


def bulk_result(result: BulkResult, width: int) -> RenderableType:
    """How many links came to what, by app: a column each, or where `width` is too small, a line."""
    shown = [outcome for outcome in Outcome if result.counts.get(outcome)]
    rows = list(result.by_app.items())
    headings = LABELS if result.links is None else _PLANNED_LABELS
    needed = sum(len(headings[outcome]) + _GAP for outcome in shown) + len("total") + _GAP
    with_ids = [inert(with_id(app.app_name, app.app_id)) for app, _ in rows]
    names = [inert(app.app_name) for app, _ in rows]
    for labels in (with_ids, names):
        if max(map(cell_len, ["App", *labels])) + _GAP + needed <= width:
            return _outcome_columns(result, headings, shown, labels)
    return _outcome_lines(result, headings, shown, names)


def _outcome_columns(
    result: BulkResult,
    headings: Mapping[Outcome, str],
    shown: Sequence[Outcome],
    labels: Sequence[str],
) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column("App", no_wrap=True)
    for outcome in shown:
        table.add_column(headings[outcome], justify="right", style=_STYLES[outcome], no_wrap=True)
    table.add_column("total", justify="right", no_wrap=True)
    for label, counts in zip(labels, result.by_app.values(), strict=True):
        cells = [cell(counts.get(outcome, 0)) for outcome in shown]
        table.add_row(Text(label), *cells, cell(sum(counts.values())))
    if len(labels) > 1:
        cells = [cell(result.counts.get(outcome, 0)) for outcome in shown]
        table.add_section()
        table.add_row(cell("all"), *cells, cell(result.completed))
    return table


def _outcome_lines(
    result: BulkResult,
    headings: Mapping[Outcome, str],
    shown: Sequence[Outcome],
    labels: Sequence[str],
) -> RenderableType:
    def line(counts: Mapping[Outcome, int]) -> Text:
        return cell(
            ", ".join(
                f"{counts[outcome]} {headings[outcome]}" for outcome in shown if counts.get(outcome)
            )
        )

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column("App", overflow="fold")
    table.add_column("Links", overflow="fold")
    for label, counts in zip(labels, result.by_app.values(), strict=True):
        table.add_row(Text(label, overflow="fold"), line(counts))
    if len(labels) > 1:
        table.add_section()
        table.add_row(cell("all"), line(result.counts))
    return table


def failures(
    items: Sequence[LinkFailure], total: int = 0, heading: str = "Not done"
) -> RenderableType:
    """The first links that were left undone, and why; `total`: if there are more than these."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column(heading, overflow="fold")
    table.add_column("Why", overflow="fold")
    for failure in items[:FAILURES_SHOWN]:
        table.add_row(cell(failure.job_id), cell(failure.error))
    if len(items) > FAILURES_SHOWN:
        more = max(total, len(items)) - FAILURES_SHOWN
        table.add_row(cell(f"and {more} more"), cell("see --json"))
    return table


def link_wait(wait: LinkWait) -> RenderableType:
    """What the snapshot of one link has come to."""
    results = {
        WaitEnd.SYNCED: ("in sync", "green"),
        WaitEnd.FAILED: ("failed again", "bold red"),
        WaitEnd.GONE: ("the link is gone", "yellow"),
        WaitEnd.LOST: ("the job is lost", "bold red"),
    }
    text, style = results.get(wait.end, (f"still {wait.status}", "yellow"))
    table = pairs()
    table.add_row("Result", cell(f"{text}, after {wait.seconds:.0f} s", style))
    if wait.error is not None:
        table.add_row("Error", cell(wait.error))
    return table


def wait_counts(wait: BulkWait) -> str:
    """How many links came to what."""
    counts = {
        "in sync": wait.synced,
        "failed again": wait.failed,
        "gone": wait.gone,
        "still to come": wait.running,
    }
    jobs = ", ".join(f"{count} {place}" for place, count in asdict(wait.jobs).items() if count)
    shown = ", ".join(f"{count} {label}" for label, count in counts.items() if count)
    return f"{shown} ({jobs})" if jobs else shown


def bulk_wait(wait: BulkWait) -> RenderableType:
    """What the snapshots have come to, in one line."""
    return cell(f"{wait_counts(wait)}, after {wait.seconds:.0f} s")


def app_counts(counts: Iterable[AppCount]) -> RenderableType:
    """How many links of which app."""
    ordered = sorted(counts, key=lambda count: -count.links)
    table = pairs()
    for count in ordered[:_APPS_SHOWN]:
        table.add_row(cell(count.links), cell(with_id(count.app.app_name, count.app.app_id)))
    if rest := ordered[_APPS_SHOWN:]:
        links = sum(count.links for count in rest)
        table.add_row(cell(links), cell(f"in {len(rest)} more apps"))
    return table


def progress(operation: Progress) -> RenderableType:
    """A bulk operation as it stands."""
    table = pairs()
    table.add_row("Operation", cell(operation.operation_id))
    table.add_row("Completed", cell(f"{operation.completed} of {operation.total}"))
    table.add_row("Succeeded", cell(operation.succeeded))
    table.add_row("Failed", cell(operation.failed, "bold red" if operation.failed else ""))
    table.add_row("Cancelled", cell("yes" if operation.cancelled else "no"))
    return table


def operations(known: Iterable[KnownOperation], width: int) -> RenderableType:
    """Bulk operations, how far they are and whether anybody goes on with them."""
    rows = [
        (
            cell(operation.progress.operation_id),
            cell(f"{operation.progress.completed} of {operation.progress.total}"),
            cell(operation.progress.succeeded),
            cell(operation.progress.failed, "bold red" if operation.progress.failed else ""),
            cell(operation.state.replace("_", " "), _STATE_STYLES[operation.state]),
            cell(_ago(operation.silence)),
        )
        for operation in known
    ]
    numbers = ("Completed", "Succeeded", "Failed")
    return records(("Operation", *numbers, "State", "Last step"), rows, width, numbers)


def _ago(silence: timedelta | None) -> str:
    if silence is None:
        return "unknown"
    minutes, seconds = divmod(int(silence.total_seconds()), 60)
    return f"{minutes} min {seconds} s ago" if minutes else f"{seconds} s ago"


def pairs() -> Table:
    """An empty table of names and values."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def with_id(name: str, identifier: str) -> str:
    """`Acme Search (app_…)`."""
    return f"{name} ({identifier})"
