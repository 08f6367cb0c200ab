"""Audit entries of a bulk operation or a repair: one when it starts, one when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from docora_ops.audit import Change
from docora_ops.links import Outcome
from docora_ops.queue import Answer
from docora_ops.queue.audit_stream import AuditEntry, end_entry, start_entry
from docora_ops.queue.progress import new_operation_id

Key = TypeVar("Key", bound=str)

_PUSHED = (Outcome.QUEUED, Outcome.REPLACED_STALE)


@dataclass(slots=True)
class AuditEntries:
    """The two entries of one run, and which of them have been written.

    Bulk operations write both together with their progress. A run without an operation id writes
    the first with the first job that it queues: a run that queues nothing leaves no entry.
    """

    change: Change
    total: int
    operation_id: str | None = None
    begun: bool = False
    ended: bool = False
    _run: str = field(default_factory=new_operation_id)

    def start(self) -> AuditEntry:
        """Returns the entry for the start of the run."""
        return start_entry(self.change, self._run, self.operation_id, self.total)

    def start_with_push(self) -> Mapping[Outcome, AuditEntry]:
        """Returns the entry by the outcomes of a push that write it; none if it is written."""
        return {} if self.begun else dict.fromkeys(_PUSHED, self.start())

    def notice(self, answers: Sequence[Answer]) -> None:
        """Marks the run as begun if one of the answers to a push wrote the entry."""
        self.begun |= any(answer.outcome in _PUSHED for answer in answers)

    def end(self, counts: Mapping[Key, int], *, cancelled: bool) -> AuditEntry:
        """Returns the entry for the end of the run. `counts`: links by outcome."""
        shown = {str(outcome): count for outcome, count in counts.items() if count}
        return end_entry(
            self.change,
            self._run,
            self.operation_id,
            {"total": self.total, **shown},
            cancelled=cancelled,
        )
