"""What a bulk run leaves in the audit trail: an entry when it begins, and one when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from docora_ops.audit import ChangeNote
from docora_ops.drift import Mending
from docora_ops.links import Outcome
from docora_ops.queue import Answer
from docora_ops.queue.audit_stream import AuditEntry, end_entry, start_entry
from docora_ops.queue.progress import new_operation_id


@dataclass(slots=True)
class RunTrail:
    """The entries of one run. Of a run that is made known they go with its progress.

    Of one that is not, the first goes with the first job that it queues: one that queues nothing
    leaves nothing.
    """

    note: ChangeNote
    total: int
    operation_id: str | None = None
    begun: bool = False
    ended: bool = False
    _run: str = field(default_factory=new_operation_id)

    def start(self) -> AuditEntry:
        """Says that the run begins."""
        return start_entry(self.note, self._run, self.operation_id, self.total)

    def start_with_push(self) -> Mapping[Outcome, AuditEntry]:
        """The same, by the outcomes that call for it, unless it has been said."""
        if self.begun:
            return {}
        return dict.fromkeys((Outcome.QUEUED, Outcome.REPLACED_STALE), self.start())

    def notice(self, answers: Sequence[Answer]) -> None:
        """Learn from a push whether the run has begun."""
        if any(answer.outcome in {Outcome.QUEUED, Outcome.REPLACED_STALE} for answer in answers):
            self.begun = True

    def end(
        self, counts: Mapping[Outcome, int] | Mapping[Mending, int], *, cancelled: bool
    ) -> AuditEntry:
        """Says how the run has ended; `counts` go by outcome."""
        shown = {str(outcome): count for outcome, count in counts.items() if count}
        return end_entry(
            self.note,
            self._run,
            self.operation_id,
            {"total": self.total, **shown},
            cancelled=cancelled,
        )
