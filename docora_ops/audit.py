"""Audit entries: who changed what, and why."""

import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from docora_ops.bulk import Results, StoppedBy
from docora_ops.text import mask

_LONGEST_VALUE = 1000
_LOGIN_UID = Path("/proc/self/loginuid")
_UNSET = 2**32 - 1


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
    """A change as its audit entries tell it."""

    started_at: datetime
    who: str
    command: str
    selection: Mapping[str, str | int | bool | list[str]]  # options and their values
    reason: str | None
    operation_id: str | None
    counts: Mapping[str, int]  # links by outcome, and their `total`
    state: HistoryState
    stopped_by: StoppedBy | None
    cancelled_by: str | None
    results: Results | None


def describe_change(command: str, reason: str | None, **selection: object) -> Change:
    """Describes a change by the current user for an audit entry, without secrets.

    `selection`: the options by name; those that are None, False or empty are left out.
    """

    def recorded(value: object) -> object:
        if isinstance(value, list):
            return list(map(recorded, value))
        return mask(value)[:_LONGEST_VALUE] if isinstance(value, str) else value

    return Change(
        who=f"{_user()}@{os.uname().nodename}",
        command=command,
        selection={
            name: recorded(value)
            for name, value in selection.items()
            if value is not None and value is not False and value != []
        },
        reason=reason and mask(reason),
    )


def _user() -> str:
    """Names the user as the kernel knows it: `kim`, or `kim as root` after sudo or su."""

    def name_of(uid: int) -> str:
        with suppress(KeyError):
            return pwd.getpwuid(uid).pw_name
        return str(uid)

    user = name_of(os.getuid())
    with suppress(OSError, ValueError):  # another system than Linux
        uid = int(_LOGIN_UID.read_text(encoding="ascii"))  # kept through sudo and su
        if uid not in {_UNSET, os.getuid()}:
            return f"{name_of(uid)} as {user}"
    return user
