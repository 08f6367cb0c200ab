"""The audit trail: who changed what, when and why, in capped streams of Redis."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from heapq import merge
from operator import itemgetter
from typing import cast

from redis import Redis

from docora_ops.audit import ChangeNote, HistoryEntry, HistoryState
from docora_ops.links import Action, Outcome
from docora_ops.queue.redis_client import describe, redis_errors
from docora_ops.settings import Settings

STREAM = "docora-ops:audit"
SCHEDULE_STREAM = "docora-ops:audit:schedule"
"""On its own: a pass each minute would crowd out what people do."""
ENTRIES_KEPT = 10_000
_CHUNK = 200


class _Event(StrEnum):
    """What an entry is about: a whole change, or the start or the end of a run."""

    DONE = "done"
    STARTED = "started"
    FINISHED = "finished"
    CANCELLED = "cancelled"


_STATES = {
    _Event.DONE: HistoryState.DONE,
    _Event.STARTED: HistoryState.NOT_FINISHED,
    _Event.FINISHED: HistoryState.DONE,
    _Event.CANCELLED: HistoryState.CANCELLED,
}


@dataclass(frozen=True)
class AuditEntry:
    """One entry, to be written in the same step as the change that it tells of."""

    key: str
    fields: tuple[str, ...]
    """Names and values, alternating."""


def link_entries(note: ChangeNote, run: str) -> dict[Outcome, AuditEntry]:
    """Returns the entries that are written with the push of one link's job, by its outcome.

    A job that was pushed is there, whatever becomes of the transaction. A waiting job that is kept
    shows no change before the commit: so its entry says that a change begins, and the entry of
    `link_end_entry`, with the same `run`, that it was made.
    """
    entries = {
        outcome: _entry(note, _Event.DONE, counts={"total": 1, outcome: 1})
        for outcome in (Outcome.QUEUED, Outcome.REPLACED_STALE)
    }
    return entries | {Outcome.ALREADY_QUEUED: start_entry(note, run, None, 1)}


def link_end_entry(note: ChangeNote, run: str) -> AuditEntry:
    """Returns the entry for the committed reset of a link whose waiting job was kept."""
    counts = {"total": 1, Outcome.ALREADY_QUEUED: 1}
    return end_entry(note, run, None, counts, cancelled=False)


def cancel_entry(note: ChangeNote, operation_id: str) -> AuditEntry:
    """What the cancellation of an operation is to leave."""
    return _entry(note, _Event.DONE, operation_id=operation_id)


def start_entry(note: ChangeNote, run: str, operation_id: str | None, total: int) -> AuditEntry:
    """What the start of a run is to leave; `run` is what start and end have in common."""
    return _entry(note, _Event.STARTED, run=run, operation_id=operation_id, counts={"total": total})


def end_entry(
    note: ChangeNote,
    run: str,
    operation_id: str | None,
    counts: Mapping[str, int],
    *,
    cancelled: bool,
) -> AuditEntry:
    """What the end of a run is to leave."""
    event = _Event.CANCELLED if cancelled else _Event.FINISHED
    return _entry(note, event, run=run, operation_id=operation_id, counts=counts)


def _entry(
    note: ChangeNote,
    event: _Event,
    *,
    run: str = "",
    operation_id: str | None = None,
    counts: Mapping[str, int] | None = None,
) -> AuditEntry:
    fields = {
        "event": event.value,
        "who": note.who,
        "command": note.command,
        "selection": json.dumps(note.selection),
        "reason": note.reason or "",
        "operation_id": operation_id or "",
        "run": run,
        "counts": json.dumps(counts or {}),
    }
    key = SCHEDULE_STREAM if note.command == Action.SCHEDULE else STREAM
    return AuditEntry(key, tuple(text for item in fields.items() for text in item))


def write_entry(client: Redis, entry: AuditEntry) -> None:
    """Write an entry by itself."""
    client.xadd(
        entry.key,
        dict(zip(entry.fields[::2], entry.fields[1::2], strict=True)),
        maxlen=ENTRIES_KEPT,
    )


class History:
    """Reads the audit trail. Raises RedisError."""

    def __init__(self, settings: Settings, client: Redis) -> None:
        self._client = client
        self._where = describe(settings)

    def read(self, limit: int, *, schedule: bool = True) -> list[HistoryEntry]:
        """The newest changes, with the passes of the schedule or without; a run is one of them."""
        keys = [STREAM, SCHEDULE_STREAM] if schedule else [STREAM]
        with redis_errors(self._where):
            entries = merge(
                *(self._newest_first(key) for key in keys), key=itemgetter(0), reverse=True
            )
            return _fold((fields for _, fields in entries), limit)

    def _newest_first(self, key: str) -> Iterator[tuple[tuple[int, int], dict[str, str]]]:
        newest, last = "+", b""
        while True:
            # One more, since the last one comes again.
            some = cast(
                "list[tuple[bytes, dict[bytes, bytes]]]",
                self._client.xrevrange(key, newest, count=_CHUNK + 1),
            )
            for entry_id, fields in some:
                if entry_id != last:
                    milliseconds, _, sequence = entry_id.decode().partition("-")
                    texts = {_text(name): _text(value) for name, value in fields.items()}
                    yield (int(milliseconds), int(sequence)), texts | {"ms": milliseconds}
            if len(some) <= _CHUNK:
                return
            last = some[-1][0]
            newest = last.decode()


def _fold(entries: Iterable[Mapping[str, str]], limit: int) -> list[HistoryEntry]:
    """Start and end of a run made one; `entries` come newest first, and so do the results."""
    rows: list[HistoryEntry] = []
    row_of_run: dict[str, int] = {}
    start_unseen: set[str] = set()
    for fields in entries:
        try:
            event = _Event(fields["event"])
            row = _row(fields, event)
        except (KeyError, ValueError, OverflowError, OSError):
            continue  # not written by us
        run = fields.get("run", "")
        if run and run in row_of_run:
            if event is _Event.STARTED:
                place = row_of_run[run]
                rows[place] = replace(rows[place], when=row.when)
                start_unseen.discard(run)
        elif len(rows) < limit:
            if run:
                row_of_run[run] = len(rows)
                if event is not _Event.STARTED:
                    start_unseen.add(run)
            rows.append(row)
        if len(rows) == limit and not start_unseen:
            break
    return sorted(rows, key=lambda row: row.when, reverse=True)


def _row(fields: Mapping[str, str], event: _Event) -> HistoryEntry:
    counts = _mapping(fields.get("counts", ""))
    return HistoryEntry(
        when=datetime.fromtimestamp(int(fields["ms"]) / 1000, UTC),
        who=fields["who"],
        command=fields["command"],
        selection=_mapping(fields.get("selection", "")),
        reason=fields.get("reason") or None,
        operation_id=fields.get("operation_id") or None,
        counts={name: value for name, value in counts.items() if type(value) is int},
        state=_STATES[event],
    )


def _mapping(text: str) -> dict[str, str | int]:
    """What is plain in a JSON object, for anybody may have written it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str | int)}


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
