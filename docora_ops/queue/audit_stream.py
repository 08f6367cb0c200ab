"""The audit entries in Redis streams: who changed what, when and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from heapq import merge
from typing import Any, cast

from redis import Redis

from docora_ops.audit import Change, HistoryEntry, HistoryState
from docora_ops.bulk import Results, StoppedBy
from docora_ops.links import Action
from docora_ops.queue.redis_client import redis_errors, text_of

STREAM = "docora-ops:audit"
SCHEDULE_STREAM = "docora-ops:audit:schedule"
"""A stream of its own: a pass each minute would push out the entries of people."""
ENTRIES_KEPT = 10_000
_CHUNK = 1000


_DONE, _STARTED, _FINISHED, _CANCELLED = "done", "started", "finished", "cancelled"
_AWAITED = "awaited"
"""The event of an entry that adds the results of an operation's snapshots."""
_STATES = {
    _DONE: HistoryState.DONE,  # a change without a start
    _STARTED: HistoryState.NOT_FINISHED,
    _FINISHED: HistoryState.DONE,
    _CANCELLED: HistoryState.CANCELLED,
}
"""The state of a change by the `event` of its last entry."""


@dataclass(frozen=True)
class AuditEntry:
    """One audit entry, to be written atomically with its change."""

    key: str
    fields: tuple[str, ...]
    """Names and values, alternating."""

    @property
    def xadd(self) -> list[str | int]:
        """Returns the arguments of the XADD that writes the entry."""
        return [self.key, "MAXLEN", "~", ENTRIES_KEPT, "*", *self.fields]


def cancel_entry(change: Change, operation_id: str) -> AuditEntry:
    """Returns the entry for the cancellation of an operation."""
    return _entry(change, _DONE, operation_id=operation_id)


def change_entry(change: Change) -> AuditEntry:
    """Returns the entry for a change of no link."""
    return _entry(change, _DONE)


def start_entry(change: Change, run: str, operation_id: str | None, total: int) -> AuditEntry:
    """Returns the entry for the start of a run; the end has the same `run`."""
    return _entry(change, _STARTED, run=run, operation_id=operation_id, counts={"total": total})


def end_entry(
    change: Change,
    run: str,
    operation_id: str | None,
    counts: Mapping[str, int],
    stopped_by: StoppedBy | None = None,
    cancelled_by: str | None = None,
) -> AuditEntry:
    """Returns the entry for the end of a run. `stopped_by`: why links were left as they were."""
    event = _CANCELLED if stopped_by else _FINISHED
    entry = _entry(change, event, run=run, operation_id=operation_id, counts=counts)
    reason = {"stopped_by": stopped_by, "cancelled_by": cancelled_by}
    added = tuple(text for name, value in reason.items() if value for text in (name, value))
    return replace(entry, fields=(*entry.fields, *added))


def results_entry(change: Change, operation_id: str, results: Results) -> AuditEntry:
    """Returns the entry for the results of an operation's snapshots; the last one counts."""
    return _entry(change, _AWAITED, operation_id=operation_id, counts=asdict(results))


def _entry(
    change: Change,
    event: str,
    *,
    run: str = "",
    operation_id: str | None = None,
    counts: Mapping[str, int] | None = None,
) -> AuditEntry:
    fields = {
        "event": event,
        "who": change.who,
        "command": change.command,
        "selection": json.dumps(change.selection),
        "reason": change.reason or "",
        "operation_id": operation_id or "",
        "run": run,
        "counts": json.dumps(counts or {}),
    }
    key = SCHEDULE_STREAM if change.command == Action.SCHEDULE else STREAM
    return AuditEntry(key, tuple(text for item in fields.items() for text in item))


def write_entry(client: Redis, entry: AuditEntry) -> None:
    """Writes an entry without a change."""
    with redis_errors(client):
        add_entry(client, entry)


def add_entry(client: Redis, entry: AuditEntry) -> None:
    """Writes an entry, or adds that to a pipeline."""
    fields: dict[Any, Any] = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    client.xadd(entry.key, fields, maxlen=ENTRIES_KEPT)


def read_history(client: Redis, *, schedule: bool = True) -> list[HistoryEntry]:
    """Returns the changes, the newest first. Raises RedisError.

    `schedule`: with the passes of `schedule`.
    """
    keys = [STREAM, SCHEDULE_STREAM] if schedule else [STREAM]
    with redis_errors(client):
        streams = [_newest_first(client, key) for key in keys]
        return _fold(merge(*streams, key=lambda fields: int(fields["ms"]), reverse=True))


def _newest_first(client: Redis, key: str) -> Iterator[dict[str, str]]:
    newest = "+"
    while some := cast(
        "list[tuple[bytes, dict[bytes, bytes]]]", client.xrevrange(key, newest, count=_CHUNK)
    ):
        for entry_id, fields in some:
            texts = {text_of(name): text_of(value) for name, value in fields.items()}
            yield texts | {"ms": entry_id.decode().partition("-")[0]}
        newest = "(" + some[-1][0].decode()


def _fold(entries: Iterable[Mapping[str, str]]) -> list[HistoryEntry]:
    """Makes one row of the start and the end of a run; `entries` and rows are newest first."""
    rows: dict[str, HistoryEntry] = {}
    results: dict[str, Results] = {}  # by operation id
    for fields in entries:
        try:
            event = fields["event"]
            if event == _AWAITED:
                if found := results_of(fields["counts"]):
                    results.setdefault(fields["operation_id"], found)
                continue
            row = _row(fields)
        except (KeyError, ValueError, OverflowError, OSError):
            continue  # not written by us
        run = fields.get("run")
        if run and row.operation_id:
            row = replace(row, results=results.get(row.operation_id))
        key = run or str(len(rows))
        if key in rows:
            if event == _STARTED:
                rows[key] = replace(rows[key], started_at=row.started_at)
        else:
            rows[key] = row
    return sorted(rows.values(), key=lambda row: row.started_at, reverse=True)


def _row(fields: Mapping[str, str]) -> HistoryEntry:
    counts = mapping_of(fields.get("counts", ""))
    return HistoryEntry(
        started_at=datetime.fromtimestamp(int(fields["ms"]) / 1000, UTC),
        who=fields["who"],
        command=fields["command"],
        selection=mapping_of(fields.get("selection", "")),
        reason=fields.get("reason") or None,
        operation_id=fields.get("operation_id") or None,
        counts={name: value for name, value in counts.items() if type(value) is int},
        state=_STATES[fields["event"]],
        stopped_by=reason_of(fields.get("stopped_by")),
        cancelled_by=fields.get("cancelled_by") or None,
        results=None,
    )


def results_of(text: str) -> Results | None:
    """Reads the results of an operation's snapshots, None if there are none."""
    counts = mapping_of(text)
    found = [counts.get(each.name) for each in dataclass_fields(Results)]
    numbers = [each for each in found if isinstance(each, int)]
    return Results(*numbers) if len(numbers) == len(found) else None


def reason_of(text: str | None) -> StoppedBy | None:
    """Reads why an operation has left links as they were, None if no known reason is told."""
    return StoppedBy(text) if text in set(StoppedBy) else None


def mapping_of(text: str) -> dict[str, str | int | bool | list[str]]:
    """Returns the texts, numbers and lists of texts of a JSON object: others may write anything."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, str | int)
        or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    }
