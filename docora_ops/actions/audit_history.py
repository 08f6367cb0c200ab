"""The audit entries of changes. Needs only Redis."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import groupby

from docora_ops.actions.docora import Docora
from docora_ops.actions.pages import Page, page_of
from docora_ops.actions.recorded_results import add_recorded_results
from docora_ops.errors import past_moment
from docora_ops.links import Action
from docora_ops.operations import HistoryEntry, HistoryState
from docora_ops.queue.audit_stream import read_history
from docora_ops.queue.operation_records import find_records, read_operation
from docora_ops.queue.redis_server import read_clock
from docora_ops.text import When


def history(
    docora: Docora,
    *,
    schedule: bool = True,
    folded: bool = False,
    since: When | None = None,
    operation_id: str | None = None,
    app: str | None = None,
    page: int = 1,
    limit: int = 20,
) -> Page[HistoryEntry]:
    """Returns one page of the audit history, newest change first.

    Omits passes of `schedule` that changed nothing.

    schedule: include passes of `schedule`.
    folded: merge consecutive passes of `schedule` with the same user and reason into one
        change. Its counts begin with `passes`, the number of passes.
    since: only changes that began or ended at this time or later, or whose bulk operation has
        written progress since.
    operation_id: only the entries of this bulk operation, including its cancellation.
    app: only changes whose selection names this app (id or name, case-insensitive).

    Raises UsageError if `since` is in the future, NotFoundError if nothing is known about the
    operation, RedisError.
    """
    first = past_moment(since, now(docora), "Redis") if since is not None else None
    under_way = set(find_records(docora.redis, first)) if first else set()
    entries = read_history(docora.redis, schedule=schedule)
    if operation_id is not None:
        entries = [entry for entry in entries if entry.operation_id == operation_id]
        if not entries:
            read_operation(docora.redis, operation_id, of_the_week=True)  # raises NotFoundError
    entries = [
        entry
        for entry in entries
        if not entry.is_idle_pass
        and (first is None or entry.latest_at >= first or entry.operation_id in under_way)
        and (app is None or entry.names_app(app))
    ]
    shown = page_of([*_fold(entries)] if folded else entries, page, limit)
    return replace(shown, rows=add_recorded_results(docora, shown.rows))


def _fold(entries: Iterable[HistoryEntry]) -> Iterator[HistoryEntry]:
    def is_pass(entry: HistoryEntry) -> bool:
        return entry.command == Action.SCHEDULE and entry.state is HistoryState.DONE

    for are_passes, consecutive in groupby(entries, is_pass):
        if not are_passes:
            yield from consecutive
            continue
        # The passes of two hosts may alternate.
        by_kind: defaultdict[object, list[HistoryEntry]] = defaultdict(list)
        for entry in consecutive:
            by_kind[entry.who, entry.reason].append(entry)
        for passes in by_kind.values():
            sums = sum((Counter(entry.counts) for entry in passes), Counter[str]())
            counts = {"passes": len(passes), **sums} if len(passes) > 1 else passes[0].counts
            yield replace(passes[0], started_at=passes[-1].started_at, counts=counts)


def now(docora: Docora) -> datetime:
    """Returns the time in UTC by the clock of Redis, which dates the audit entries."""
    return read_clock(docora.redis)
