"""Bulk operations, their dry runs and progress, the wait for snapshots, and the history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from shlex import quote

from docora_ops.audit import HistoryEntry, HistoryState
from docora_ops.bulk import (
    BulkResult,
    BulkWait,
    KnownOperation,
    MaxFailures,
    OperationState,
    Results,
    StoppedBy,
)
from docora_ops.links import Action, LinkFailure, Outcome, PlannedLink
from docora_ops.render.columns import Column, Listing, Pairs, cell, style_of, unbroken, words
from docora_ops.render.link_view import (
    NO_ERROR,
    ROWS_SHOWN,
    app_counts,
    failures,
    link_name,
    outcome_label,
)
from docora_ops.text import amount, duration

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
    if result.stopped_by is not StoppedBy.MAX_FAILURES:
        return _end_of(result.stopped_by, result.cancelled_by)
    results = amount(result.results_at_stop or 0, "snapshot")
    failed = f"{result.failed_at_stop} of {results} failed again"
    return f"{failed}, more than --max-failures {max_failures}"


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
        yield from ("", cell(f"{links} failed again: {error}"), unbroken(f"  {group.command}"))
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
    jobs = asdict(wait.jobs_by_state)
    places = ", ".join(f"{count} {place}" for place, count in jobs.items() if count)
    # The jobs were looked at some seconds ago: some may have ended.
    where = f" ({places})" if 0 < sum(jobs.values()) <= wait.unfinished else ""
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


# `operations`, `progress` and `cancel`.

_ENDS = {
    StoppedBy.CANCELLED: "cancelled",
    StoppedBy.INTERRUPTED: "interrupted",
    StoppedBy.LOST_SERVER: "a server was lost",
    StoppedBy.MAX_FAILURES: "too many failed again",
    StoppedBy.TIMEOUT: "time ran out",
    StoppedBy.LOST_JOBS: "all links in flight lost their jobs",
}
_RESULTS = {
    "synced": "in sync",
    "failed": "failed again",
    "gone": "gone",
    "unfinished": "not finished",
}
_NAMES = {"app_name": "app_id", "repository_name": "repository_id"}
"""Positional arguments of a command, each with the id that is left out beside it."""


def command_line(command: str | None, selection: Mapping[str, object]) -> str:
    """Returns a command with its arguments and options, quoted for the shell."""
    return " ".join([quote(command), *_arguments(selection)]) if command else ""


def _arguments(selection: Mapping[str, object]) -> Iterator[str]:
    left_out = {identifier for name, identifier in _NAMES.items() if name in selection}
    for name, value in selection.items():
        if name in left_out:
            continue
        for each in value if isinstance(value, list) else [value]:
            if name not in _NAMES:
                yield quote(f"--{name.replace('_', '-')}")
            if each is not True:
                yield quote(str(each))


def _end_of(stopped_by: StoppedBy | None, cancelled_by: str | None) -> str:
    """Returns why an operation has left links as they were, in words."""
    if cancelled_by and stopped_by in {None, StoppedBy.CANCELLED}:
        return f"cancelled by {cancelled_by}"
    return _ENDS[stopped_by or StoppedBy.CANCELLED]


def _results_of(results: Results | None) -> str:
    """Counts the results of an operation's snapshots; empty if they are not known."""
    counts = asdict(results) if results else {}
    return ", ".join(f"{count} {_RESULTS[name]}" for name, count in counts.items() if count)


def _state(operation: KnownOperation) -> str:
    if operation.state is OperationState.CANCELLED:
        return _end_of(operation.stopped_by, operation.cancelled_by)
    return words(operation.state)


def ago(seconds: float | None) -> str:
    """Returns `5 s ago`, or `unknown`."""
    return "unknown" if seconds is None else f"{duration(seconds)} ago"


_OPERATIONS: tuple[Column[KnownOperation], ...] = (
    Column("Operation", lambda each: each.operation_id),
    Column("Completed", lambda each: f"{each.completed} of {each.total}", is_number=True),
    Column("Put to work", lambda each: each.put_to_work, is_number=True, left_out=4),
    Column(
        "Not queued",
        lambda each: each.not_queued,
        lambda each: "bold red" * bool(each.not_queued),
        is_number=True,
    ),
    Column("State", _state, lambda each: style_of(each.state)),
    Column("Results", lambda each: _results_of(each.results), left_out=3),
    Column("Last step", lambda each: ago(each.last_step_seconds), left_out=2),
    Column("Who", lambda each: each.who, left_out=1),
    Column("What", lambda each: command_line(each.command, each.selection), folds=True),
)


def operations_list(operations: Sequence[KnownOperation]) -> Listing[KnownOperation]:
    """Lists the operations with their progress and state."""
    return Listing(_OPERATIONS, operations)


@dataclass(frozen=True)
class ProgressData(KnownOperation):
    """The result of `progress`, and of `wait` for an operation, which alone has `waited`.

    `failures_not_kept`: links that could not be queued, beyond the 10,000 in `failures`.
    """

    failures: Sequence[LinkFailure]
    failures_not_kept: int
    waited: BulkWait | None


def progress_data(
    operation: KnownOperation,
    failures: Sequence[LinkFailure],
    failures_total: int,
    wait: BulkWait | None = None,
) -> ProgressData:
    """Returns the JSON data of `progress`, or of `wait` for an operation."""
    return ProgressData(
        **vars(operation),
        failures=failures,
        failures_not_kept=max(0, failures_total - len(failures)),
        waited=wait and wait.grouped(),
    )


def progress_screens(
    operation: KnownOperation, failed: Sequence[LinkFailure], failures_total: int
) -> Iterator[object]:
    """Shows the progress of one operation and the links that it could not queue."""
    rows = [
        (column.name, column.cell(operation))
        for column in _OPERATIONS
        if column.name != "Last step"
    ]
    yield Pairs([row for row in rows if row[1]])
    if failed:
        yield from ("", failures(failed))
    if (more := failures_total - len(failed)) > 0:
        yield f"and {more:,} more, which are not kept"


@dataclass(frozen=True)
class CancelData:
    """The result of `cancel`. `already_cancelled`: somebody had cancelled it before."""

    message: str
    operation_id: str
    already_cancelled: bool


# `history`.


def _result(entry: HistoryEntry) -> str:
    counts = dict(entry.counts)
    total = counts.pop("total", 0)
    parts = [f"{count} {words(outcome)}" for outcome, count in counts.items()]
    if entry.state is not HistoryState.DONE:
        is_cancelled = entry.state is HistoryState.CANCELLED
        end = _end_of(entry.stopped_by, entry.cancelled_by) if is_cancelled else words(entry.state)
        parts = [f"{amount(total, 'link')}: {', '.join([*parts, end])}"]
    return "; ".join(filter(None, (", ".join(parts), _results_of(entry.results))))


_HISTORY: tuple[Column[HistoryEntry], ...] = (
    Column("When", lambda entry: entry.started_at),
    Column("Who", lambda entry: entry.who),
    Column("What", lambda entry: command_line(entry.command, entry.selection), folds=True),
    Column("Result", _result),
    Column("Operation", lambda entry: entry.operation_id, left_out=1),
    Column("Reason", lambda entry: entry.reason),
)


def history_list(entries: Sequence[HistoryEntry]) -> Listing[HistoryEntry]:
    """Lists the changes, each with its command as it was typed."""
    return Listing(_HISTORY, entries)
