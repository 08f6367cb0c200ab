"""`retry-all-failed`, `resync --all`, `schedule`, and every dry run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType

from docora_ops.bulk import BulkResult
from docora_ops.links import Action, AppCount, LinkFailure, Outcome, PlannedLink
from docora_ops.render import waiting
from docora_ops.render.cells import cell, with_id
from docora_ops.render.json import Document, encode_long, fields_of
from docora_ops.render.layout import fitting_table, headed, long_table, pairs
from docora_ops.text import inert
from docora_ops.waits import BulkWait

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
STYLES = {
    Outcome.QUEUED: "green",
    Outcome.REPLACED_STALE: "green",
    Outcome.ALREADY_QUEUED: "cyan",
    Outcome.ALREADY_RUNNING: "cyan",
    Outcome.SKIPPED: "yellow",
    Outcome.FAILED: "bold red",
}
_MESSAGES = {
    Action.RETRY: ("Bulk retry started", "No failed notifications found"),
    Action.RESYNC: ("Bulk re-sync started", "No links found"),
    Action.SCHEDULE: ("Schedule pass done", "Nothing is due"),
}
"""For some links, and for none."""
_FAILURES_SHOWN = 20
_APPS_SHOWN = 20


def message(result: BulkResult) -> str:
    """Returns the result in the dashboard's words where it has them."""
    if result.action is Action.SCHEDULE and result.completed < result.total:
        return "Schedule pass stopped"
    some, none = _MESSAGES[result.action]
    return some if result.total else none


def document(result: BulkResult, wait: BulkWait | None = None) -> Document:
    """Returns the JSON of a bulk operation: Docora's `BulkRetryResponse` and further fields."""
    data: Document = {
        "message": message(result),
        "operation_id": result.operation_id,
        **_counts(result),
        "failures": result.failures,
    }
    if wait is not None:
        data |= waiting.bulk_fields(wait)
    return {"data": data}


def encode_plan(result: BulkResult, links: Iterable[PlannedLink]) -> Iterator[str]:
    """Encodes the JSON of a dry run piece by piece, since there may be a million links."""
    data = {"message": "Dry run", "dry_run": True, **_counts(result), "links": []}
    return encode_long(
        {"data": data}, ({"job_id": link.job_id, **fields_of(link)} for link in links)
    )


def _counts(result: BulkResult) -> Document:
    fields: Document = {
        "total": result.total,
        "completed": result.completed,
        "succeeded": result.succeeded,
        "failed": result.failed,
        "cancelled": result.cancelled,
    }
    for outcome in Outcome:
        fields[outcome] = result.counts.get(outcome, 0)
    if result.action is Action.RESYNC:
        fields["deliveries_cleared"] = result.deliveries_cleared
    if result.open_circuits_left_out is not None:
        fields["open_circuits_left_out"] = result.open_circuits_left_out
    return fields


def plan_tables(links: Sequence[PlannedLink], width: int) -> Iterator[RenderableType]:
    """Shows what would happen, link by link, some hundred rows at a time.

    Leaves out the ids if `width` is too small; `--json` has them.
    """
    columns = ("App", "Repository", "Would happen", "Job")
    return long_table(
        [(columns, _plan_cells), (columns[:3], _short_plan_cells)],
        links,
        lambda link: STYLES[link.outcome],
        width,
    )


def _plan_cells(link: PlannedLink) -> tuple[str, ...]:
    _, repository, plan = _short_plan_cells(link)
    return inert(with_id(link.app_name, link.app_id)), repository, plan, inert(link.job_id)


def _short_plan_cells(link: PlannedLink) -> tuple[str, ...]:
    plan = _PLANS[link.outcome] + (f": {link.error_message}" if link.error_message else "")
    return inert(link.app_name), inert(link.repository_name), inert(plan)


def table(result: BulkResult, width: int) -> RenderableType:
    """Shows the outcomes by app: each in a column, or all in one if `width` is too small."""
    labels = LABELS if result.links is None else _PLANNED_LABELS
    shown = [outcome for outcome in Outcome if result.counts.get(outcome)]
    names = tuple(labels[outcome] for outcome in shown)
    all_counts = list(result.by_app.values())
    if len(all_counts) > 1:
        all_counts.append(result.counts)
    numbers = [
        [
            *(cell(counts.get(outcome, 0), STYLES[outcome]) for outcome in shown),
            cell(sum(counts.values())),
        ]
        for counts in all_counts
    ]
    for with_ids in (True, False):
        apps = [
            cell(with_id(app.app_name, app.app_id) if with_ids else app.app_name)
            for app in result.by_app
        ]
        if len(apps) > 1:
            apps.append(cell("all"))
        rows = [[app, *cells] for app, cells in zip(apps, numbers, strict=True)]
        if found := fitting_table(("App", *names, "total"), rows, width, numbers=(*names, "total")):
            break
    else:
        found = headed("App", "Links")
        for app, counts in zip(apps, all_counts, strict=True):
            words = (f"{counts[each]} {labels[each]}" for each in shown if counts.get(each))
            found.add_row(app, cell(", ".join(words)))
    if len(apps) > 1:
        found.rows[-2].end_section = True
    return found


def failures(
    items: Sequence[LinkFailure], total: int = 0, heading: str = "Not done"
) -> RenderableType:
    """Shows the first failures, and how many more there are: `total` if `items` has not all."""
    shown = headed(heading, "Why")
    for failure in items[:_FAILURES_SHOWN]:
        shown.add_row(cell(failure.job_id), cell(failure.error_message))
    if len(items) > _FAILURES_SHOWN:
        more = max(total, len(items)) - _FAILURES_SHOWN
        shown.add_row(cell(f"and {more} more"), cell("see --json"))
    return shown


def app_counts(counts: Iterable[AppCount]) -> RenderableType:
    """Shows the number of links of each app, the largest first."""
    ordered = sorted(counts, key=lambda count: -count.links)
    shown = pairs()
    for count in ordered[:_APPS_SHOWN]:
        shown.add_row(cell(count.links), cell(with_id(count.app.app_name, count.app.app_id)))
    if rest := ordered[_APPS_SHOWN:]:
        links = sum(count.links for count in rest)
        shown.add_row(cell(links), cell(f"in {len(rest)} more apps"))
    return shown
