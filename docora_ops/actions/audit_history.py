"""The audit entries of changes. Needs only Redis."""

from dataclasses import replace
from datetime import datetime

from docora_ops.actions.docora import Docora
from docora_ops.actions.pages import Page, page_of
from docora_ops.actions.recorded_results import add_to_changes
from docora_ops.errors import in_future
from docora_ops.operations import HistoryEntry
from docora_ops.queue.audit_stream import read_history
from docora_ops.queue.operation_records import find_records
from docora_ops.queue.redis_server import read_clock
from docora_ops.text import When, moment_of


def history(
    docora: Docora,
    *,
    schedule: bool = True,
    since: When | None = None,
    operation_id: str | None = None,
    app: str | None = None,
    page: int = 1,
    limit: int = 20,
) -> Page[HistoryEntry]:
    """Returns one page of the changes, latest first, without passes that changed nothing.

    schedule: include passes of `schedule`.
    since: only changes that began or ended since then, and bulk operations with a step since then.
    operation_id: only the entries of this bulk operation, including its cancellation.
    app: only changes whose selection names this app (id or name, case-insensitive).

    Raises UsageError if `since` is in the future.
    """
    first = past_moment(since, now(docora)) if since is not None else None
    under_way = set(find_records(docora.redis, first)) if first else set()
    entries = [
        entry
        for entry in read_history(docora.redis, schedule=schedule)
        if not entry.is_idle_pass
        and (first is None or entry.latest_at >= first or entry.operation_id in under_way)
        and (operation_id is None or entry.operation_id == operation_id)
        and (app is None or entry.names_app(app))
    ]
    shown = page_of(entries, page, limit)
    return replace(shown, rows=add_to_changes(docora, shown.rows))


def now(docora: Docora) -> datetime:
    """Returns the time in UTC by the clock of Redis, which dates the audit entries."""
    return read_clock(docora.redis)


def past_moment(when: When, now: datetime) -> datetime:
    """Converts a time or an age to a time. `now`: by the clock of Redis.

    Raises UsageError if the result is in the future.
    """
    moment = moment_of(when, now)
    if moment > now:
        raise in_future("--since", moment, now, "Redis")
    return moment
