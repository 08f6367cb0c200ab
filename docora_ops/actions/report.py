"""The post-mortem of an incident, from the audit entries, the operations and the state now."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from docora_ops.actions.docora import Docora
from docora_ops.actions.journal import past_moment, progress
from docora_ops.actions.status import read_status
from docora_ops.audit import HistoryEntry
from docora_ops.bulk import OperationRecord
from docora_ops.errors import NotFoundError, ServerError
from docora_ops.links import Action, Outcome, count_succeeded
from docora_ops.queue.audit_stream import read_history
from docora_ops.queue.redis_server import read_clock
from docora_ops.report import Pause, Report, SchedulePasses
from docora_ops.text import When

_A_DAY = timedelta(days=1)
_MOST_CHANGES = 100
_MOST_OPERATIONS = 20
"""A longer report would not fit into one comment of an issue."""
_MOST_REASONS = 10
_SECONDS = re.compile("([0-9]{1,9})s")


def read_report(
    docora: Docora, *, since: When | None = None, operation_id: str | None = None
) -> tuple[Report, Sequence[ServerError]]:
    """Returns the report of a time or of one bulk operation, and the errors of unusable servers.

    since: the begin of the time, a day ago if None.
    operation_id: report this operation and the changes with its id.

    Raises NotFoundError if nothing is known of the operation, RedisError.
    """
    now = datetime.fromtimestamp(read_clock(docora.redis), UTC)
    entries = read_history(docora.redis)[::-1]
    changes = [entry for entry in entries if entry.command != Action.SCHEDULE]
    if operation_id is None:
        first, until = past_moment(docora, _A_DAY if since is None else since), now
        operations, left_out = _operations_since(docora, first)
        ids = {operation.operation_id for operation in operations}
        chosen = [it for it in changes if it.latest_at >= first or it.operation_id in ids]
        passes = [it for it in entries if it.command == Action.SCHEDULE and it.latest_at >= first]
        schedule = _sum_up(passes)
    else:
        chosen = [entry for entry in changes if entry.operation_id == operation_id]
        operations, left_out, schedule = _operations_with(docora, operation_id, chosen), 0, None
        moments = [at for it in chosen for at in (it.started_at, it.latest_at)]
        for each in operations:
            moments += filter(None, (each.started_at, each.last_step_at))
        first, until = min(moments, default=now), max(moments, default=now)
    pauses = [
        pause
        for pause in _pauses(changes, now)
        if pause.started_at <= until and (pause.ended_at is None or pause.ended_at >= first)
    ]
    status, errors = read_status(docora)
    report = Report(
        since=first,
        until=until,
        operation_id=operation_id,
        changes=chosen[-_MOST_CHANGES:],
        changes_left_out=max(0, len(chosen) - _MOST_CHANGES),
        operations=operations,
        operations_left_out=left_out,
        pauses=pauses,
        schedule=schedule,
        status=status,
    )
    return report, errors


def _operations_since(docora: Docora, first: datetime) -> tuple[list[OperationRecord], int]:
    """Returns the newest operations with a step since then, and the number of older ones."""
    ids = docora.store.find_records(first)
    records = [docora.store.read_record(each) for each in ids[:_MOST_OPERATIONS]]
    found = [record for record in records if record]
    of_others = [
        OperationRecord(**vars(each), started_at=None, reason=None, failures=[], failed_links=[])
        for each in docora.store.read_all()
        if each.who is None and each.last_step_at and each.last_step_at >= first
    ]
    found += of_others[:_MOST_OPERATIONS]
    left_out = len(ids) + len(of_others) - len(found)
    return sorted(found, key=lambda it: it.started_at or it.last_step_at or first), left_out


def _operations_with(
    docora: Docora, operation_id: str, changes: Sequence[HistoryEntry]
) -> list[OperationRecord]:
    """Returns the operation; nothing if only audit entries are left of it."""
    if record := docora.store.read_record(operation_id):
        return [record]
    try:
        found, failures, _ = progress(docora, operation_id)
    except NotFoundError:
        if not changes:
            raise
        return []
    return [
        OperationRecord(
            **vars(found), started_at=None, reason=None, failures=failures, failed_links=[]
        )
    ]


def _sum_up(passes: Sequence[HistoryEntry]) -> SchedulePasses:
    queued = (
        count_succeeded({outcome: each.counts.get(outcome, 0) for outcome in Outcome})
        for each in passes
    )
    last = max((each.latest_at for each in passes), default=None)
    reasons = list(dict.fromkeys(each.reason for each in reversed(passes) if each.reason))
    return SchedulePasses(len(passes), sum(queued), last, reasons[:_MOST_REASONS])


def _pauses(changes: Iterable[HistoryEntry], now: datetime) -> Iterator[Pause]:
    """Yields the pauses, from the entries of `pause` and `resume` in their order."""
    open_pause: Pause | None = None
    for entry in changes:
        if entry.command not in {"pause", "resume"}:
            continue
        at = entry.started_at
        if open_pause:
            yield replace(open_pause, ended_at=min(open_pause.ended_at or at, at))
        open_pause = None
        if entry.command == "pause":
            found = _SECONDS.fullmatch(str(entry.selection.get("for", "")))
            end = at + timedelta(seconds=int(found[1])) if found else None
            open_pause = Pause(at, end, entry.who, entry.reason)
    if open_pause:
        end = open_pause.ended_at
        yield replace(open_pause, ended_at=end if end and end <= now else None)
