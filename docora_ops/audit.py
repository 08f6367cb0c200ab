"""Entries of the audit trail: who changed what, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True)
class ChangeNote:
    """What the audit trail is to say of a change: who asked for it, how, and why."""

    who: str
    command: str
    selection: Mapping[str, object]
    reason: str | None = None


class HistoryState(StrEnum):
    """How a change has ended, as far as the audit trail tells."""

    DONE = "done"
    CANCELLED = "cancelled"
    NOT_FINISHED = "not_finished"


@dataclass(frozen=True)
class HistoryEntry:
    """A change in the audit trail. `counts`: links by outcome, and their `total`."""

    when: datetime
    who: str
    command: str
    selection: Mapping[str, str | int]
    reason: str | None
    operation_id: str | None
    counts: Mapping[str, int]
    state: HistoryState
