"""Audit entries of a bulk operation or a repair: one when it starts, one when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from docora_ops.audit import Change
from docora_ops.bulk import StoppedBy
from docora_ops.drift import RepairOutcome
from docora_ops.interrupts import Stop
from docora_ops.links import Action, Outcome
from docora_ops.queue import ProgressStore
from docora_ops.queue.audit_stream import AuditEntry, end_entry, start_entry
from docora_ops.queue.progress import new_operation_id

Counts = Mapping[Outcome, int] | Mapping[RepairOutcome, int]

_CHANGES = (Outcome.QUEUED, Outcome.REPLACED_STALE, Outcome.RESET, Outcome.NOT_QUEUED)


def interruption(stop: Stop) -> StoppedBy | None:
    """Returns the reason of a stop that a signal has requested, None if none has."""
    if not stop.requested:
        return None
    return StoppedBy.HUNG_UP if stop.hung_up else StoppedBy.INTERRUPTED


@dataclass(slots=True)
class AuditEntries:
    """The two entries of one run, and which of them have been written.

    Bulk operations write both together with their progress. A run without an operation id writes
    the first with its first change: a run that changes nothing leaves no entry.
    """

    change: Change
    total: int
    operation_id: str | None = None
    has_begun: bool = False
    has_ended: bool = False
    _run: str = field(default_factory=new_operation_id)

    def start(self) -> AuditEntry | None:
        """Returns the entry for the start of the run, None if it is written."""
        if self.has_begun:
            return None
        return start_entry(self.change, self._run, self.operation_id, self.total)

    def entries_with_push(self, action: Action) -> dict[Outcome, AuditEntry]:
        """Returns the entry for the start by the outcomes of a push that are a change.

        A job that waits already is one if the action resets its link. A link that is not queued
        was stuck too often, and is failed now.
        """
        start = self.start()
        if start is None:
            return {}
        entries = dict.fromkeys(_CHANGES, start)
        if action in {Action.RETRY, Action.RESYNC}:
            entries[Outcome.ALREADY_QUEUED] = start
        return entries

    def end(
        self, counts: Counts, stopped_by: StoppedBy | None, cancelled_by: str | None = None
    ) -> AuditEntry:
        """Returns the entry for the end of the run. `counts`: links by outcome."""
        shown = {str(outcome): count for outcome, count in counts.items() if count}
        shown = {"total": self.total, **shown}
        reason = (stopped_by, cancelled_by)
        return end_entry(self.change, self._run, self.operation_id, shown, *reason)

    def write_end(self, store: ProgressStore, counts: Counts, stopped_by: StoppedBy | None) -> None:
        """Writes the entry for the end of a run that has begun, once. Raises RedisError."""
        if self.has_begun and not self.has_ended:
            store.record(self.end(counts, stopped_by))
            self.has_ended = True
