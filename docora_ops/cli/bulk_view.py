"""Screens and sentences on bulk operations, dry runs and the wait for snapshots."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from docora_ops.links import Action, AppCount, LinkGroup, Outcome, PlannedLink
from docora_ops.operations import (
    BulkResult,
    BulkWait,
    KnownOperation,
    OperationState,
    Results,
    RunningOperation,
    StoppedBy,
)
from docora_ops.render.columns import (
    ROWS_SHOWN,
    Column,
    Listing,
    Pairs,
    cell,
    link_name,
    planned,
    style_of,
    words,
)
from docora_ops.render.link_tables import failures, group_columns
from docora_ops.text import counted, duration, moment

_SECONDS = re.compile(r"\A([1-9][0-9]{0,8})s\Z")  # as `pause` and `hold` record --for
_MESSAGES = {  # for some links, if the command is stopped, and for no links
    Action.RETRY: ("Bulk retry started", "Bulk retry stopped", "Nothing to retry"),
    Action.RESYNC: ("Bulk re-sync started", "Bulk re-sync stopped", "Nothing to resync"),
    Action.SCHEDULE: ("Schedule pass done", "Schedule pass stopped", "Nothing is due"),
}


@dataclass(frozen=True)
class BulkData(BulkResult):
    """The result of a bulk operation. `waited`: null without `--wait`."""

    message: str
    waited: BulkWait | None


def bulk_data(result: BulkResult, wait: BulkWait | None = None) -> BulkData:
    """Returns the JSON data of a bulk operation."""
    shown = "Dry run" if result.dry_run else message(result)
    return BulkData(**vars(result), message=shown, waited=wait and wait.grouped())


def message(result: BulkResult) -> str:
    """Returns the result in a few words, if possible with the text of Docora's dashboard."""
    done, stopped, none = _MESSAGES[result.action]
    is_schedule = result.action is Action.SCHEDULE
    if is_schedule and (result.left_to_operations or result.held_left_out):
        none = "Nothing else is due"
    if not result.total:
        return none
    return stopped if result.cancelled else done


AppOutcomes = tuple[AppCount, Mapping[Outcome, int]]


def summary(
    by_app: Mapping[AppCount, Mapping[Outcome, int]], *, is_planned: bool = False
) -> Listing[Any]:
    """Counts the links by app and outcome."""

    def column(outcome: Outcome) -> Column[AppOutcomes]:
        style = style_of(outcome)
        name = planned(outcome, is_planned=is_planned)
        return Column(name, lambda row: row[1].get(outcome, 0), lambda _: style, True)

    totals = sum(map(Counter, by_app.values()), Counter[Outcome]())
    columns = (
        Column[AppOutcomes]("App", lambda row: row[0].app_name),
        Column[AppOutcomes]("App id", lambda row: row[0].app_id, left_out=1),
        *(column(outcome) for outcome in Outcome if totals[outcome]),
        Column[AppOutcomes]("total", lambda row: sum(row[1].values()), is_number=True),
    )
    rows: list[AppOutcomes] = [*by_app.items()]
    if len(rows) > 1:
        rows.insert(0, (AppCount("", "all", 0), totals))
    return Listing(columns, rows)


def running(operation: RunningOperation) -> str:
    """Says how many of the chosen links an operation works on, who started it, and its progress."""
    parts = (
        operation.who,
        command_line(operation.command, operation.selection),
        links_done(operation),
        f"since {moment(operation.started_at)}" if operation.started_at else None,
    )
    at_work = f"Operation {operation.operation_id} is at work on {operation.links} of these links"
    return f"{at_work}: {', '.join(filter(None, parts))}."


def links_done(operation: KnownOperation) -> str:
    """Returns `40 of 455`, or `40 of 455, 3 taken over`.

    Taken over: another producer queued or changed these 3 links first. The 40 do not include them.
    """
    done = f"{operation.completed - operation.taken_over} of {operation.total}"
    return f"{done}, {operation.taken_over} taken over" if operation.taken_over else done


def planned_list(links: Sequence[PlannedLink]) -> Listing[PlannedLink]:
    """Lists the expected outcome of each link."""
    columns: Sequence[Column[PlannedLink]] = (
        Column("Link", link_name, narrowest=16),
        Column("Outcome", lambda link: planned(link.outcome), lambda link: style_of(link.outcome)),
        Column("Why", lambda link: link.error_message, folds=True),
        Column("Job id", lambda link: link.job_id, left_out=1),
    )
    return Listing(columns, links, is_compact=True)


def stopped(stopped_by: StoppedBy | None, cancelled_by: str | None) -> str:
    """Returns, in words, why an operation queues no more links."""
    if cancelled_by and stopped_by in {None, StoppedBy.CANCELLED}:
        return f"cancelled by {cancelled_by}"
    return words(stopped_by or StoppedBy.CANCELLED)


def state_of(operation: KnownOperation) -> str:
    """Returns the state, or why the operation was stopped."""
    if operation.state is OperationState.CANCELLED:
        return stopped(operation.stopped_by, operation.cancelled_by)
    return words(operation.state)


def wait_screens(wait: BulkWait) -> Iterator[object]:
    """Shows the results of the awaited snapshots, and the links that failed again or are lost."""
    if not wait.total:
        return
    yield from ("", f"{wait_counts(wait)}, after {duration(wait.seconds)}")
    if 0 < wait.failed <= ROWS_SHOWN:
        yield from ("", failures(wait.failed_links, "Failed again"))
    if wait.failed:
        errors = wait.grouped().failed_by_error
        yield from ("", Listing(group_columns(LinkGroup.ERROR), errors, ROWS_SHOWN))
    if wait.lost_links:
        yield from ("", failures(wait.lost_links, "Lost"))


def wait_counts(wait: BulkWait, left: int = 0, limit: int | None = None) -> str:
    """Counts the snapshots by result, and the jobs of unfinished snapshots by state.

    left: the number of links not queued yet.
    limit: how many snapshots may be in flight now; None without `--in-flight`.
    """
    jobs = asdict(wait.jobs_by_state)
    label = "still to come"
    if left:
        label = f"of {limit} in flight" if limit else "in flight"
    if 0 < sum(jobs.values()) <= wait.unfinished:  # otherwise, some jobs ended after the count
        label += f" ({', '.join(counted(jobs))})"
    shown = counted_results(wait.results, label)
    if left:
        shown.append(f"{left:,} not queued yet")
    if wait.suspended:
        shown.append("workers suspended")
    return ", ".join(shown)


def counted_results(results: Results | None, unfinished: str = "not finished") -> list[str]:
    """Counts the results, such as `40 in sync`, failures first; empty if `results` is None.

    unfinished: the words for snapshots without a result.
    """
    if results is None:
        return []
    counts = {
        "failed again": results.failed,
        "in sync": results.synced,
        "gone": results.gone,
        unfinished: results.unfinished,
    }
    return counted(counts)


def detached_screen(operation_id: str, process: int) -> Pairs:
    """Shows how to follow and stop an operation that continues in another process."""
    rows = {
        "Operation": operation_id,
        "Process": process,
        "Progress": f"docora-ops operations {operation_id}",
        "Results": f"docora-ops wait {operation_id}",
        "To stop it": f"docora-ops cancel {operation_id}",
    }
    return Pairs([(name, cell(value)) for name, value in rows.items()])


def command_line(command: str | None, selection: Mapping[str, object]) -> str:
    """Returns a command with its arguments and options, quoted for the shell."""
    typed = [command] if command else []
    for name, value in selection.items():
        # Ids repeat the names. The old URL and the held apps are results, not options.
        if name in {"app_id", "repository_id", "old_url", "held"}:
            continue
        for argument in value if isinstance(value, list) else [value]:
            if name not in {"app_name", "repository_name", "new_url"}:
                typed.append(f"--{name.replace('_', '-')}")
            if argument is not True:
                text = str(argument)
                typed.append(_SECONDS.sub(_whole_units, text) if name == "for" else text)
    return shlex.join(typed)


def _whole_units(seconds: re.Match[str]) -> str:
    """Returns `2h` for `7200s`: the duration in the largest unit that leaves no remainder."""
    left = int(seconds[1])
    units = ((3600, "h"), (60, "m"), (1, "s"))
    return next(f"{left // size}{unit}" for size, unit in units if left % size == 0)
