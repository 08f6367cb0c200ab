"""The audit entries in Redis streams: who changed what, when and why."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from math import inf
from os import urandom
from typing import Any, TypeVar, cast

from redis import Redis

from docora_ops.links import Action
from docora_ops.operations import Change, HistoryEntry, HistoryState, Results, StoppedBy
from docora_ops.queue.redis_client import mapping_of, redis_errors, server_time, text_of

STREAM = "docora-ops:audit"
# A separate stream, because a pass every minute would push out the entries of people.
SCHEDULE_STREAM = "docora-ops:audit:schedule"
ENTRIES_KEPT = 10_000
_LAST_ENTRIES = 100  # entries that `read_last_change` reads

AuditEntry = tuple[str | int, ...]  # the command that writes the entry: XADD, key, arguments


OutcomeT = TypeVar("OutcomeT", bound=StrEnum)


class AuditEvent(StrEnum):
    """The point of a change at which an audit entry is written."""

    DONE = "done"  # a change without a start and an end
    STARTED = "started"
    ENDED = "ended"
    AWAITED = "awaited"  # results; `operation_id` names the operation or, for one link, the run


def audit_entry(
    change: Change,
    event: AuditEvent,
    *,
    run: str = "",
    operation_id: str | None = None,
    counts: Mapping[str, int] | None = None,
    stopped_by: StoppedBy | None = None,
    cancelled_by: str | None = None,
) -> AuditEntry:
    """Returns the audit entry of a change, to be written atomically with the change.

    run: an id shared by the entries of the start and the end of a change.
    stopped_by: why the remaining links were left unchanged.
    """
    fields = {
        "event": event,
        "who": change.who,
        "command": change.command,
        "selection": json.dumps(change.selection),
        "reason": change.reason or "",
        "operation_id": operation_id or "",
        "run": run,
        "counts": json.dumps(counts or {}),
        "stopped_by": stopped_by or "",
        "cancelled_by": cancelled_by or "",
    }
    key = SCHEDULE_STREAM if change.command == Action.SCHEDULE else STREAM
    texts = (text for item in fields.items() for text in item)
    return ("XADD", key, "MAXLEN", "~", ENTRIES_KEPT, "*", *texts)


def add_entry(client: Redis, entry: AuditEntry) -> None:
    """Writes an entry, or adds it to the commands of a pipeline. Raises RedisError."""
    execute: Callable[..., object] = client.execute_command
    with redis_errors(client):
        execute(*entry)


@dataclass(slots=True)
class AuditEntries:
    """The two audit entries of a change, for its start and its end.

    Bulk operations write each entry together with their progress. Other changes write the entry for
    the start together with the first job; if nothing changes, they write no entry.

    total: the number of links.
    deliveries: the number of delivery records deleted or, with `--update`, marked as outdated.
    """

    change: Change
    total: int
    operation_id: str | None = None
    has_begun: bool = False
    has_ended: bool = False
    deliveries: int = 0
    run: str = field(default_factory=lambda: urandom(8).hex())

    def entry(
        self,
        event: AuditEvent,
        counts: Mapping[OutcomeT, int] | None = None,
        stopped_by: StoppedBy | None = None,
        cancelled_by: str | None = None,
    ) -> AuditEntry:
        """Returns the entry for `event`. `counts`: the number of links by outcome."""
        numbers = {"total": self.total}
        numbers |= {str(outcome): count for outcome, count in (counts or {}).items()}
        numbers["deliveries_cleared"] = self.deliveries
        return audit_entry(
            self.change,
            event,
            run=self.run,
            operation_id=self.operation_id,
            counts={key: number for key, number in numbers.items() if number or key == "total"},
            stopped_by=stopped_by,
            cancelled_by=cancelled_by,
        )

    def start(self) -> list[AuditEntry]:
        """Returns the entry for the start as a list; empty once it has been written."""
        return [] if self.has_begun else [self.entry(AuditEvent.STARTED)]

    def write_end(
        self,
        client: Redis,
        counts: Mapping[OutcomeT, int],
        stopped_by: StoppedBy | None,
    ) -> None:
        """Writes the entry for the end, once, if the entry for the start was written.

        Raises RedisError.
        """
        if self.has_begun and not self.has_ended:
            add_entry(client, self.entry(AuditEvent.ENDED, counts, stopped_by))
            self.has_ended = True


def read_history(client: Redis, *, schedule: bool = True) -> list[HistoryEntry]:
    """Reads the changes from the audit entries, newest first. Raises RedisError.

    schedule: include the passes of `schedule`.
    """
    entries: list[tuple[bytes, dict[bytes, bytes]]] = []
    with redis_errors(client):
        for key in (STREAM, SCHEDULE_STREAM) if schedule else (STREAM,):
            entries += cast("Any", client.xrevrange(key))
    entries.sort(key=lambda entry: [int(part) for part in entry[0].split(b"-")], reverse=True)
    changes: list[HistoryEntry] = []  # those with a single entry
    runs: dict[str, HistoryEntry] = {}  # by run; the end of a run is read first
    results: dict[str, Results] = {}  # by operation id or, for one link, by run
    for entry_id, fields in entries:
        texts = {text_of(name): text_of(value) for name, value in fields.items()}
        try:
            if texts["event"] == AuditEvent.AWAITED:
                if awaited := results_of(texts["counts"]):
                    results.setdefault(texts["operation_id"], awaited)
                continue
            row = _row(int(entry_id.partition(b"-")[0]), texts)
        except (KeyError, ValueError, OverflowError, OSError):
            continue  # not written by us
        run = texts.get("run")
        if not run:
            changes.append(row)
        elif run not in runs:
            runs[run] = row
        elif texts["event"] == AuditEvent.STARTED:
            runs[run] = replace(runs[run], started_at=row.started_at)
    # Only now, because a wait may end before its operation.
    for run, row in runs.items():
        changes.append(replace(row, results=results.get(row.operation_id or run)))
    return sorted(changes, key=lambda row: row.started_at, reverse=True)


def read_last_change(client: Redis) -> tuple[datetime | None, datetime | None]:
    """Returns when the last audit entry was written, and when a suspension or hold last ended.

    Either is None if unknown. Reads the last 100 audit entries, without passes of `schedule`.
    Raises RedisError.
    """
    with redis_errors(client):
        now = server_time(client)
        entries = cast("Any", client.xrevrange(STREAM, count=_LAST_ENTRIES))
    changed_at = None
    ends: dict[str, float] = {}  # Unix time by app id; of suspensions by ""
    for entry_id, fields in entries:
        at = datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000, UTC)
        changed_at = changed_at or at
        command, selection = (text_of(fields.get(name, b"")) for name in (b"command", b"selection"))
        if command in {"resume", "release", "pause", "hold"}:
            details = mapping_of(selection)
            seconds = str(details.get("for", "")).removesuffix("s")
            is_endless = command in {"pause", "hold"} and not seconds.isdigit()
            end = inf if is_endless else at.timestamp() + int(seconds or 0)
            ends.setdefault(str(details.get("app_id", "")), end)
    past = [end for end in ends.values() if end <= now]
    return changed_at, datetime.fromtimestamp(max(past), UTC) if past else None


def _row(milliseconds: int, texts: Mapping[str, str]) -> HistoryEntry:
    counts = mapping_of(texts.get("counts"))
    state = HistoryState.DONE
    if AuditEvent(texts["event"]) is AuditEvent.STARTED:
        state = HistoryState.NOT_FINISHED
    elif texts.get("stopped_by"):
        state = HistoryState.CANCELLED
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return HistoryEntry(
        started_at=at,
        ended_at=None if state is HistoryState.NOT_FINISHED else at,
        who=texts["who"],
        command=texts["command"],
        selection=mapping_of(texts.get("selection")),
        reason=texts.get("reason") or None,
        operation_id=texts.get("operation_id") or None,
        counts={name: value for name, value in counts.items() if type(value) is int},
        state=state,
        stopped_by=stopped_by_of(texts.get("stopped_by")),
        cancelled_by=texts.get("cancelled_by") or None,
        results=None,
    )


def results_of(text: str | None) -> Results | None:
    """Parses the results of an operation's snapshots; returns None if there are none."""
    counts = {name: count for name, count in mapping_of(text).items() if isinstance(count, int)}
    with suppress(TypeError):
        return Results(**counts)
    return None


def stopped_by_of(text: str | None) -> StoppedBy | None:
    """Parses why an operation left links unchanged; returns None for any other text."""
    with suppress(ValueError):
        return StoppedBy(text or "")
    return None
