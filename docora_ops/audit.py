"""Audit entries: who changed what, and why."""

import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from docora_ops.bulk import NO_OPTIONS, ChangeOptions, Results, StoppedBy
from docora_ops.text import mask

_LONGEST_VALUE = 1000
_UNSET = 2**32 - 1  # a login uid


@dataclass(frozen=True)
class Change:
    """A requested change: who asked for it, with which command and options, and why."""

    who: str
    command: str
    selection: Mapping[str, object]
    reason: str | None = None
    target: str | None = None


class HistoryState(StrEnum):
    """The end of a change, as its audit entries tell it."""

    DONE = "done"
    CANCELLED = "cancelled"
    NOT_FINISHED = "not_finished"


@dataclass(frozen=True)
class HistoryEntry:
    """A change as recorded in its audit entries.

    `ended_at`: None if it has not finished.
    """

    started_at: datetime
    ended_at: datetime | None
    who: str
    command: str
    selection: Mapping[str, str | int | bool | list[str]]  # options and their values
    reason: str | None
    operation_id: str | None
    counts: Mapping[str, int]
    """Links by outcome, their `total`, and delivery records: `deliveries_cleared` or, with
    `--update`, `deliveries_marked`."""
    state: HistoryState
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None
    target: str | None = None  # as named by who made the change

    @property
    def latest_at(self) -> datetime:
        """Returns the moment of the latest entry."""
        return self.ended_at or self.started_at

    def names_app(self, app: str) -> bool:
        """Tells whether the selection names this app, by id or name (case-insensitive)."""
        found = [self.selection.get(each) for each in ("app_id", "app_name", "app")]
        names = [name for each in found for name in (each if isinstance(each, list) else [each])]
        return app.casefold() in {str(name).casefold() for name in names if name is not None}


def describe_change(
    command: str, reason: str | None, options: ChangeOptions = NO_OPTIONS, /, **selection: object
) -> Change:
    """Describes a change by the current user for an audit entry, without secrets.

    selection: other options of the command by name. None, False and empty lists are left out.
    """
    most = options.max_failures
    selection |= {
        "front": options.front,
        "reset_circuit": options.reset_circuit,
        "in_flight": options.in_flight,
        "max_failures": most and (str(most) if most.is_percent else most.number),
        "update": options.update,
        "path": options.path,
    }
    chosen: dict[str, object] = {}
    for name, value in selection.items():
        if value is None or value is False or value == []:
            continue
        values = value if isinstance(value, list) else [value]
        kept = [mask(it)[:_LONGEST_VALUE] if isinstance(it, str) else it for it in values]
        chosen[name] = kept if isinstance(value, list) else kept[0]
    reason = reason and mask(reason)[:_LONGEST_VALUE]
    # The user as the kernel knows it: `kim`, or `kim as root` after sudo or su.
    uids = [os.getuid()]
    with suppress(OSError, ValueError):  # another system than Linux
        login_uid = int(Path("/proc/self/loginuid").read_bytes())  # kept through sudo and su
        if login_uid not in {_UNSET, os.getuid()}:
            uids.insert(0, login_uid)
    users = []
    for uid in uids:
        try:
            users.append(pwd.getpwuid(uid).pw_name)
        except KeyError:
            users.append(str(uid))
    who = f"{' as '.join(users)}@{os.uname().nodename}"
    return Change(who, command, chosen, reason)
