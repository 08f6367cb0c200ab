"""`retry-all-failed`, `resync --all` and `schedule`, their dry runs, and the wait for snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from docora_ops.bulk import BulkResult, MaxFailures, StoppedBy
from docora_ops.links import Action, LinkFailure, Outcome, PlannedLink
from docora_ops.render.columns import Column, Listing, Unbroken, cell, style_of
from docora_ops.render.link_view import (
    NO_ERROR,
    ROWS_SHOWN,
    app_counts,
    failures,
    link_name,
    outcome_label,
)
from docora_ops.text import amount, duration
from docora_ops.waits import BulkWait

_MESSAGES = {
    Action.RETRY: ("Bulk retry started", "No failed notifications found"),
    Action.RESYNC: ("Bulk re-sync started", "No links found"),
    Action.SCHEDULE: ("Schedule pass done", "Nothing is due"),
}
"""For some links, and for none."""


@dataclass(frozen=True)
class LeftToOperation:
    """The number of due links that `schedule` leaves to an operation with `--in-flight`."""

    operation_id: str
    links: int


@dataclass(frozen=True)
class BulkData:
    """The result of a bulk operation: Docora's `BulkRetryResponse` and further fields.

    `total` = `completed` + `left`. `put_to_work` counts the first four outcomes. What an option
    adds is null without it: `in_flight`, `taken_over`, `results_at_stop`, `failed_at_stop` need
    `--in-flight`; `circuits_reset` and `circuits_held` need `--reset-circuit`; `planned_links`
    needs `--dry-run`, `waited` needs `--wait`.
    """

    message: str
    dry_run: bool
    operation_id: str | None
    total: int
    completed: int
    left: int
    put_to_work: int
    cancelled: bool
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    queued: int
    replaced_stale: int
    reset: int
    already_queued: int
    already_running: int
    skipped: int
    not_queued: int
    deliveries_cleared: int | None
    deliveries_marked: int | None
    open_circuits_left_out: int | None
    circuits_reset: int | None
    circuits_held: int | None
    in_flight: int | None
    taken_over: int | None
    results_at_stop: int | None
    failed_at_stop: int | None
    left_to_operations: Sequence[LeftToOperation] | None
    failures: Sequence[LinkFailure]
    planned_links: Sequence[PlannedLink] | None
    waited: BulkWait | None


def bulk_data(result: BulkResult, wait: BulkWait | None = None) -> BulkData:
    """Returns the JSON data of a bulk operation."""
    counts = result.counts
    is_resync, is_paced = result.action is Action.RESYNC, result.in_flight is not None
    is_dry_run = result.links is not None
    left_to = [LeftToOperation(*each) for each in result.left_to_operations.items()]
    return BulkData(
        message="Dry run" if is_dry_run else message(result),
        dry_run=is_dry_run,
        operation_id=result.operation_id,
        total=result.total,
        completed=result.completed,
        left=result.left,
        put_to_work=result.succeeded,
        cancelled=result.cancelled,
        stopped_by=result.stopped_by,
        cancelled_by=result.cancelled_by,
        queued=counts.get(Outcome.QUEUED, 0),
        replaced_stale=counts.get(Outcome.REPLACED_STALE, 0),
        reset=counts.get(Outcome.RESET, 0),
        already_queued=counts.get(Outcome.ALREADY_QUEUED, 0),
        already_running=counts.get(Outcome.ALREADY_RUNNING, 0),
        skipped=counts.get(Outcome.SKIPPED, 0),
        not_queued=counts.get(Outcome.NOT_QUEUED, 0),
        deliveries_cleared=result.deliveries_cleared if is_resync and not result.update else None,
        deliveries_marked=result.deliveries_cleared if is_resync and result.update else None,
        open_circuits_left_out=result.open_circuits_left_out,
        circuits_reset=result.circuits_reset,
        circuits_held=None if result.circuits_reset is None else result.circuits_held,
        in_flight=result.in_flight,
        taken_over=result.taken_over if is_paced and result.action is Action.RETRY else None,
        results_at_stop=result.results_at_stop,
        failed_at_stop=result.failed_at_stop,
        left_to_operations=left_to if result.action is Action.SCHEDULE else None,
        failures=result.failures,
        planned_links=result.links,
        waited=wait and wait.grouped(),
    )


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


@dataclass(frozen=True)
class _Count:
    """One row of the summary: an app, or all of them."""

    app_name: str
    app_id: str
    counts: Mapping[Outcome, int]


def summary(result: BulkResult) -> Listing[_Count]:
    """Counts the links by app and outcome."""

    def column(outcome: Outcome) -> Column[_Count]:
        label = outcome_label(outcome, planned=result.links is not None)
        return Column(
            label,
            lambda row: row.counts.get(outcome, 0),
            lambda _: style_of(outcome),
            is_number=True,
        )

    columns = (
        Column[_Count]("App", lambda row: row.app_name),
        Column[_Count]("App id", lambda row: row.app_id, left_out=1),
        *(column(outcome) for outcome in Outcome if result.counts.get(outcome)),
        Column[_Count]("total", lambda row: sum(row.counts.values()), is_number=True),
    )
    rows = [_Count(app.app_name, app.app_id, counts) for app, counts in result.by_app.items()]
    if len(rows) > 1:  # first: a pager shows the beginning
        rows.insert(0, _Count("all", "", result.counts))
    return Listing(columns, rows)


_PLANNED_LINKS: tuple[Column[PlannedLink], ...] = (
    Column("Link", lambda link: link_name(link.app_name, link.repository_name) or link.job_id),
    Column(
        "Would happen",
        lambda link: ": ".join(
            filter(None, (outcome_label(link.outcome, planned=True), link.error_message))
        ),
        lambda link: style_of(link.outcome),
        folds=True,
    ),
    Column("Job id", lambda link: link.job_id, left_out=1),
)


def planned_list(links: Sequence[PlannedLink]) -> Listing[PlannedLink]:
    """Lists the expected outcome of each link."""
    return Listing(_PLANNED_LINKS, links)


def stopped(result: BulkResult, max_failures: MaxFailures | None) -> str:
    """Says why an operation queues no further link."""
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
    """Reports links that another producer queued first."""
    links = amount(result.taken_over, "link")
    sentence = f"{links} had been queued or changed before, by a scheduler or somebody else"
    return f"{sentence}, who may go on with the rest" if result.left else sentence


# The wait for snapshots.


def wait_screens(wait: BulkWait) -> Iterator[object]:
    """Shows the result of the wait for the snapshots, and which failed again or have no job."""
    if not wait.total:
        return
    yield from ("", f"{', '.join(_counts(wait, 0))}, after {wait.seconds:.0f} s")
    if 0 < wait.failed <= ROWS_SHOWN:
        yield from ("", failures(wait.failed_links, "Failed again"))
    groups = wait.grouped().failed_by_error
    for group in groups[:ROWS_SHOWN]:
        error = group.error_message or f"({NO_ERROR})"
        links = f"{amount(group.links, 'link')} of {amount(group.apps, 'app')}"
        yield from ("", cell(f"{links} failed again: {error}"), Unbroken(f"  {group.command}"))
    if (more := len(groups) - ROWS_SHOWN) > 0:
        yield from ("", f"and {amount(more, 'error')} more: docora-ops failed --group-by error")
    if wait.lost_links:
        yield from ("", failures(wait.lost_links, "Lost"))
    if wait.unfinished_by_app:
        yield from ("", "Still to come:", app_counts(wait.unfinished_by_app))


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
    if wait.per_second and to_come and not (wait.suspended or wait.jobs_by_state.lost):
        shown.append(f"{duration(to_come / wait.per_second)} left")
    return shown


def _counts(wait: BulkWait, left: int) -> Iterator[str]:
    """Counts the snapshots by result, and the jobs of the others by place."""
    jobs = wait.jobs_by_state
    places = ", ".join(f"{count} {place}" for place, count in asdict(jobs).items() if count)
    # The jobs were looked at some seconds ago: some may have ended.
    where = f" ({places})" if 0 < jobs.total <= wait.unfinished else ""
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
