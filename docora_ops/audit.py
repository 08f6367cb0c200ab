"""Audit entries: who changed what, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from docora_ops.bulk import Results, StoppedBy


@dataclass(frozen=True)
class Change:
    """A change as it was asked for: by whom, with which command and options, for what reason."""

    who: str
    command: str
    selection: Mapping[str, object]
    reason: str | None = None


class HistoryState(StrEnum):
    """The end of a change by its audit entries."""

    DONE = "done"
    CANCELLED = "cancelled"
    NOT_FINISHED = "not_finished"


@dataclass(frozen=True)
class HistoryEntry:
    """A change as its audit entries tell it.

    `selection`: options and their values, several in a list. `counts`: links by outcome, and their
    `total`.
    """

    started_at: datetime
    who: str
    command: str
    selection: Mapping[str, str | int | bool | list[str]]
    reason: str | None
    operation_id: str | None
    counts: Mapping[str, int]
    state: HistoryState
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None
