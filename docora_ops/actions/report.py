"""The report of an incident, from audit entries, bulk operations and the current state."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from docora_ops.actions.docora import Docora
from docora_ops.actions.link_lists import apps
from docora_ops.actions.lookup import LinkChoice
from docora_ops.actions.recorded_results import add_recorded_results
from docora_ops.actions.status import Status, keeping_errors, read_status
from docora_ops.actions.verification import Verification
from docora_ops.database.link_reports import AppSummary
from docora_ops.errors import NotFoundError, ServerError, past_moment
from docora_ops.links import Action, LinkStatus, Outcome, count_put_to_work
from docora_ops.operations import HistoryEntry, OperationRecord
from docora_ops.queue.audit_stream import read_history
from docora_ops.queue.operation_records import find_records, read_operation, read_operations
from docora_ops.queue.redis_server import read_clock
from docora_ops.text import When

_A_DAY = timedelta(days=1)
_MOST_CHANGES = 100
_MOST_OPERATIONS = 20
"""A longer report would not fit into one comment on an issue."""
_MOST_REASONS = 10
_MOST_APPS = 10


@dataclass(frozen=True)
class SchedulePasses:
    """The passes of `schedule` that queued something.

    links: the number of links that they queued.
    last_at: the end of the last pass.
    reasons: up to ten different reasons given, newest first.
    """

    passes: int
    links: int
    last_at: datetime | None
    reasons: Sequence[str]


@dataclass(frozen=True)
class Report:
    """The report of a period, or of one bulk operation.

    Changes and operations are sorted by start time.

    changes: the newest 100 changes, without passes of `schedule`.
    changes_left_out, operations_left_out: the number of older changes and operations.
    schedule: None in the report of one operation.
    status: the state when the report was made.
    affected_apps: up to ten apps that had failed links when the report was made, most failed links
        first.
    verification: None if not asked for, or if Postgres could not be used.
    """

    since: datetime
    until: datetime
    operation_id: str | None
    changes: Sequence[HistoryEntry]
    changes_left_out: int
    operations: Sequence[OperationRecord]
    operations_left_out: int
    schedule: SchedulePasses | None
    status: Status
    affected_apps: Sequence[AppSummary] = ()
    verification: Verification | None = None


def read_report(
    docora: Docora, *, since: When | None = None, operation_id: str | None = None
) -> tuple[Report, Sequence[ServerError]]:
    """Returns the report of a period or of one bulk operation, and the errors of unusable servers.

    since: the start of the period; None means a day ago.
    operation_id: report only this operation and its audit entries.

    Raises UsageError if `since` is in the future, NotFoundError if nothing is known about the
    operation, RedisError.
    """
    now = read_clock(docora.redis)
    entries = read_history(docora.redis)[::-1]
    changes = [entry for entry in entries if entry.command != Action.SCHEDULE]
    if operation_id is None:
        first, until = past_moment(_A_DAY if since is None else since, now, "Redis"), now
        operations, left_out = _operations_since(docora, first)
        ids = {operation.operation_id for operation in operations}
        chosen = [
            entry for entry in changes if entry.latest_at >= first or entry.operation_id in ids
        ]
        passes = [
            entry
            for entry in entries
            if entry.command == Action.SCHEDULE and entry.latest_at >= first
        ]
        schedule = _sum_up(passes)
    else:
        chosen = [entry for entry in changes if entry.operation_id == operation_id]
        operations, left_out, schedule = _operations_with(docora, operation_id, chosen), 0, None
        moments = [at for entry in chosen for at in (entry.started_at, entry.latest_at)]
        for operation in operations:
            moments += filter(None, (operation.started_at, operation.last_step_at))
        first, until = min(moments, default=now), max(moments, default=now)
    status, lost = read_status(docora)
    errors = list(lost)
    affected: Sequence[AppSummary] = ()
    if status.failed_apps:
        with keeping_errors(errors):
            affected = apps(docora, LinkChoice(statuses=[LinkStatus.FAILED]), limit=_MOST_APPS).rows
    report = Report(
        since=first,
        until=until,
        operation_id=operation_id,
        changes=add_recorded_results(docora, chosen[-_MOST_CHANGES:]),
        changes_left_out=max(0, len(chosen) - _MOST_CHANGES),
        operations=add_recorded_results(docora, operations),
        operations_left_out=left_out,
        schedule=schedule,
        status=status,
        affected_apps=affected,
    )
    return report, errors


def _operations_since(docora: Docora, first: datetime) -> tuple[list[OperationRecord], int]:
    recorded = find_records(docora.redis, first)
    of_the_dashboard = [
        operation.operation_id
        for operation in read_operations(docora.redis)
        if operation.who is None and operation.last_step_at and operation.last_step_at >= first
    ]
    operations: list[OperationRecord] = []
    for operation_id in [*recorded[:_MOST_OPERATIONS], *of_the_dashboard[:_MOST_OPERATIONS]]:
        with suppress(NotFoundError):  # it has expired just now
            operations.append(read_operation(docora.redis, operation_id, of_the_week=True))
    operations.sort(key=lambda record: record.started_at or record.last_step_at or first)
    return operations, len(recorded) + len(of_the_dashboard) - len(operations)


def _operations_with(
    docora: Docora, operation_id: str, changes: Sequence[HistoryEntry]
) -> list[OperationRecord]:
    """Returns the operation as a list; empty if only its audit entries are left."""
    with suppress(NotFoundError) if changes else nullcontext():
        return [read_operation(docora.redis, operation_id, of_the_week=True)]
    return []


def _sum_up(passes: Sequence[HistoryEntry]) -> SchedulePasses:
    queued = (
        count_put_to_work({outcome: entry.counts.get(outcome, 0) for outcome in Outcome})
        for entry in passes
    )
    last = max((entry.latest_at for entry in passes), default=None)
    reasons = list(dict.fromkeys(entry.reason for entry in reversed(passes) if entry.reason))
    return SchedulePasses(len(passes), sum(queued), last, reasons[:_MOST_REASONS])
