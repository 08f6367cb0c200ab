"""`retry-all-failed`, `resync --all`, `schedule`, and every dry run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from docora_ops.bulk import BulkResult, MaxFailures, StoppedBy
from docora_ops.links import Action, LinkResult, Outcome, PlannedLink
from docora_ops.render.cells import cell, link_name, style_of, with_id, words
from docora_ops.render.json import Document, encode_long, fields_of
from docora_ops.render.layout import fitting_table, headed, long_table
from docora_ops.render.waits import waited_fields
from docora_ops.text import amount, inert
from docora_ops.waits import BulkWait

_PLANNED = {
    Outcome.QUEUED: "would queue",
    Outcome.REPLACED_STALE: "would replace a stale job",
    Outcome.RESET: "would reset",
    Outcome.NOT_QUEUED: "can't be queued",
}
_MESSAGES = {
    Action.RETRY: ("Bulk retry started", "No failed notifications found"),
    Action.RESYNC: ("Bulk re-sync started", "No links found"),
    Action.SCHEDULE: ("Schedule pass done", "Nothing is due"),
}
"""For some links, and for none."""


def message(result: BulkResult) -> str:
    """Returns the result in the dashboard's words where it has them."""
    if result.action is Action.SCHEDULE and result.completed < result.total:
        return "Schedule pass stopped"
    some, none = _MESSAGES[result.action]
    if left_out := result.open_circuits_left_out:
        none = f"Nothing to {result.action}: {amount(left_out, 'link')} left out"
    if result.left_to_operations:
        none = "Nothing else is due"
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
        data |= waited_fields(wait)
    return {"data": data}


def encode_plan(result: BulkResult, links: Iterable[PlannedLink]) -> Iterator[str]:
    """Encodes the JSON of a dry run piece by piece, since there may be a million links."""
    data = {"message": "Dry run", "dry_run": True, **_counts(result), "planned_links": []}
    return encode_long(
        {"data": data}, ({"job_id": link.job_id, **fields_of(link)} for link in links)
    )


def _counts(result: BulkResult) -> Document:
    fields: Document = {
        "total": result.total,
        "completed": result.completed,
        "put_to_work": result.succeeded,
        "cancelled": result.cancelled,
        "stopped_by": result.stopped_by,
        "cancelled_by": result.cancelled_by,
        **{outcome: result.counts.get(outcome, 0) for outcome in Outcome},
    }
    if result.action is Action.RESYNC:
        fields |= deliveries(result)
    if result.in_flight is not None:
        fields |= {
            "in_flight": result.in_flight,
            "left": result.left,
        }
        if result.action is Action.RETRY:
            fields["taken_over"] = result.taken_over
        if result.stopped_by is StoppedBy.MAX_FAILURES:
            fields["results_at_stop"] = result.results_at_stop
            fields["failed_at_stop"] = result.failed_at_stop
    if result.action is Action.SCHEDULE:
        fields["left_to_operations"] = [
            {"operation_id": operation_id, "links": links}
            for operation_id, links in result.left_to_operations.items()
        ]
    if result.open_circuits_left_out is not None:
        fields["open_circuits_left_out"] = result.open_circuits_left_out
    if result.circuits_reset is not None:
        fields["circuits_reset"] = result.circuits_reset
        fields["circuits_held"] = result.circuits_held
    return fields


def deliveries(result: LinkResult | BulkResult) -> Document:
    """Returns the number of delivery records that a resync has deleted or marked."""
    name = "deliveries_marked" if result.update else "deliveries_cleared"
    return {name: result.deliveries_cleared}


def records_in_words(result: LinkResult | BulkResult, *, is_planned: bool) -> str:
    """Tells what becomes of the delivery records, and what is sent."""
    records = amount(result.deliveries_cleared, "delivery record")
    verb = "would be " if is_planned else ""
    if result.update:
        return f"{records} {verb}marked: files are sent as updates, or deletions if gone"
    return f"{records} {verb}deleted: every file is sent again"


def forgets_files(result: LinkResult | BulkResult) -> bool:
    """Tells whether a resync deletes records of files, which may be gone from the repository."""
    return bool(result.deliveries_cleared) and not result.update


def forgotten(*, is_planned: bool = False) -> str:
    """Says what a resync forgets."""
    if is_planned:
        return (
            "The app would keep files that are gone from the repository: with --update they are "
            "deleted there."
        )
    return "The app keeps files that are gone from the repository."


def plan_tables(links: Sequence[PlannedLink], width: int) -> Iterator[RenderableType]:
    """Shows the expected outcome of each link."""

    def cells(link: PlannedLink) -> tuple[str, ...]:
        plan = outcome_label(link.outcome, planned=True)
        if link.error_message:
            plan += f": {link.error_message}"
        name = link_name(link.app_name, link.repository_name) or link.job_id
        return tuple(map(inert, (name, plan, link.job_id)))

    columns = ("Link", "Would happen", "Job")
    return long_table(columns, links, cells, lambda link: style_of(link.outcome), width)


def table(result: BulkResult, width: int) -> RenderableType:
    """Shows the number of links by app and outcome, in one column for all outcomes if narrow."""
    planned = result.links is not None
    labels = {
        each: outcome_label(each, planned=planned) for each in Outcome if result.counts.get(each)
    }
    rows = [
        (app.app_name, with_id(app.app_name, app.app_id), counts)
        for app, counts in result.by_app.items()
    ]
    has_sum = len(rows) > 1
    if has_sum:  # first: a pager shows the beginning
        rows.insert(0, ("all", "all", result.counts))

    def numbers(counts: Mapping[Outcome, int]) -> Iterator[Text]:
        yield from (cell(counts.get(each, 0), style_of(each)) for each in labels)
        yield cell(sum(counts.values()))

    def texts(counts: Mapping[Outcome, int]) -> Iterator[Text]:
        for each, label in labels.items():
            if counts.get(each):
                yield cell(f"{counts[each]} {label}", style_of(each))

    headings = (*labels.values(), "total")
    wide = [(cell(app), *numbers(counts)) for _, app, counts in rows]
    found = fitting_table(("App", *headings), wide, width, numbers=headings)
    if found is None:
        found = headed("App", "Links")
        for app, _, counts in rows:
            found.add_row(cell(app), Text(", ").join(texts(counts)))
    if has_sum:
        found.rows[0].end_section = True
    return found


def outcome_label(outcome: Outcome, *, planned: bool) -> str:
    """Returns an outcome in words; `planned`: that of a dry run."""
    return (planned and _PLANNED.get(outcome)) or words(outcome)


def stopped(result: BulkResult, max_failures: MaxFailures | None) -> str:
    """Tells why an operation queues no further link."""
    match result.stopped_by:
        case StoppedBy.MAX_FAILURES:
            results = amount(result.results_at_stop or 0, "snapshot")
            failed = f"{result.failed_at_stop} of {results} failed again"
            return f"{failed}, more than --max-failures {max_failures}"
        case StoppedBy.TIMEOUT:
            return "time ran out"
        case StoppedBy.LOST_JOBS:
            return "all links in flight have lost their jobs"
        case StoppedBy.INTERRUPTED:
            return "interrupted"
        case _ if result.cancelled_by:
            return f"{result.cancelled_by} cancelled the operation"
        case _:
            return "the operation was cancelled"


def left_as_they_were(result: BulkResult) -> str:
    """Counts the links that an operation has not touched."""
    links = amount(result.left, "link")
    return f"{links} {'was left as it was' if result.left == 1 else 'were left as they were'}"


def taken_over(result: BulkResult) -> str:
    """Says that others had put links to work before their turn came."""
    links = amount(result.taken_over, "link")
    sentence = f"{links} had been queued or changed before, by a scheduler or somebody else"
    return f"{sentence}, who may go on with the rest" if result.left else sentence
