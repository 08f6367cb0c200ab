"""The audit entries for the start and the end of a change of links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import urandom
from typing import TYPE_CHECKING

from docora_ops.links import Outcome
from docora_ops.operations import Change, StoppedBy
from docora_ops.queue import Redis
from docora_ops.queue.audit_stream import AuditEntry, AuditEvent, add_entry, audit_entry

if TYPE_CHECKING:
    from docora_ops.actions.repairs import RepairOutcome


@dataclass(slots=True)
class AuditEntries:
    """The two audit entries of a change, for its start and its end.

    Bulk operations write each entry together with their progress. Other changes write the entry for
    the start together with the first job; if nothing changes, they write no entry.

    total: the number of links.
    deliveries: the number of delivery records deleted or, with `--update`, marked.
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
        counts: Mapping[Outcome, int] | Mapping[RepairOutcome, int],
        stopped_by: StoppedBy | None = None,
        cancelled_by: str | None = None,
    ) -> AuditEntry:
        """Returns the entry for `event`. `counts`: the number of links by outcome."""
        numbers = {"total": self.total, **{str(key): number for key, number in counts.items()}}
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
        return [] if self.has_begun else [self.entry(AuditEvent.STARTED, {})]

    def write_end(
        self,
        redis: Redis,
        counts: Mapping[Outcome, int] | Mapping[RepairOutcome, int],
        stopped_by: StoppedBy | None,
    ) -> None:
        """Writes the entry for the end, once, if the entry for the start was written.

        Raises RedisError.
        """
        if self.has_begun and not self.has_ended:
            add_entry(redis, self.entry(AuditEvent.ENDED, counts, stopped_by))
            self.has_ended = True
