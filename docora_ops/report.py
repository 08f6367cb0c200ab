"""The post-mortem of an incident: what was done, what came of it, and the state now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from docora_ops.actions.status import Status
from docora_ops.audit import HistoryEntry
from docora_ops.bulk import OperationRecord
from docora_ops.verification import Verification


@dataclass(frozen=True)
class Pause:
    """A pause of the workers. `ended_at`: None if it goes on, or if its end was not recorded."""

    started_at: datetime
    ended_at: datetime | None
    who: str
    reason: str | None


@dataclass(frozen=True)
class SchedulePasses:
    """The passes of `schedule` that queued something: their number, their links, and the last.

    `reasons`: the newest ten different ones that were given, the newest first.
    """

    passes: int
    links: int
    last_at: datetime | None
    reasons: Sequence[str]


@dataclass(frozen=True)
class Report:
    """The report of a time, or of one bulk operation.

    `changes`: without the passes of `schedule`. `changes_left_out`, `operations_left_out`: older
    ones, of which a report has only the newest. `schedule`: None for one operation. Changes,
    operations and pauses are in the order in which they began.
    """

    since: datetime
    until: datetime
    operation_id: str | None
    changes: Sequence[HistoryEntry]
    changes_left_out: int
    operations: Sequence[OperationRecord]
    operations_left_out: int
    pauses: Sequence[Pause]
    schedule: SchedulePasses | None
    status: Status  # now
    verification: Verification | None = None  # if it was asked for and made
