"""Compares the critical checks with those in the file of the last `doctor --changes`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter

from docora_ops.actions.checks import Check, CheckName, CheckState
from docora_ops.errors import UsageError


@dataclass(frozen=True)
class Problem:
    """A critical check. `since_at`: when it was first reported."""

    name: CheckName
    since_at: datetime


@dataclass(frozen=True)
class ProblemChanges:
    """The critical checks, compared with those in the file.

    new: critical now, but not before.
    over: critical before; checked now, and no longer critical.
    ongoing: critical before; now still critical, or not checked.
    is_reminder: all problems are ongoing, and the last report is too old.
    told_at: when problems were last reported, which may be now.
    """

    new: Sequence[Problem]
    over: Sequence[Problem]
    ongoing: Sequence[Problem]
    is_reminder: bool
    told_at: datetime

    @property
    def are_news(self) -> bool:
        """Tells whether there is anything to report."""
        return bool(self.new or self.over or self.is_reminder)

    @property
    def has_open(self) -> bool:
        """Tells whether any problem is new or ongoing."""
        return bool(self.new or self.ongoing)


@dataclass(frozen=True)
class _Record:
    version: Literal[1]
    told_at: AwareDatetime
    problems: Mapping[CheckName, AwareDatetime]


_RECORD = TypeAdapter(_Record)


def compare(checks: Iterable[Check], file: Path, remind_seconds: int) -> ProblemChanges:
    """Compares the critical checks with those of the file.

    A file that is missing, unreadable or of another version counts as a file without problems.

    remind_seconds: the time after which to report ongoing problems again.
    """
    now = datetime.now(UTC)
    record = _Record(1, now, {})
    with suppress(OSError, ValueError):  # pydantic's errors are ValueErrors
        record = _RECORD.validate_json(file.read_bytes())
    states, known = {check.name: check.state for check in checks}, record.problems
    critical = [name for name, state in states.items() if state is CheckState.CRITICAL]
    lasting = {CheckState.CRITICAL, CheckState.NOT_CHECKED}
    new = [Problem(name, now) for name in critical if name not in known]
    ongoing = [Problem(name, at) for name, at in known.items() if states[name] in lasting]
    over = [Problem(name, at) for name, at in known.items() if states[name] not in lasting]
    # A clock that was set back must not delay the reminder.
    is_due = not 0 <= (now - record.told_at).total_seconds() < remind_seconds
    is_reminder = bool(ongoing) and is_due and not (new or over)
    told_at = now if new or over or is_reminder else record.told_at
    return ProblemChanges(new, over, ongoing, is_reminder, told_at)


def keep(changes: ProblemChanges, file: Path) -> None:
    """Writes the problems to the file atomically, readable by its owner. Raises UsageError."""
    problems = {problem.name: problem.since_at for problem in (*changes.new, *changes.ongoing)}
    record = _Record(1, changes.told_at, problems)
    try:
        with NamedTemporaryFile(dir=file.parent, prefix=".docora-ops-", delete=False) as new:
            try:
                new.write(_RECORD.dump_json(record))
                new.flush()
                os.fsync(new.fileno())
                Path(new.name).replace(file)
            except OSError:
                Path(new.name).unlink()
                raise
    except OSError as error:
        raise _unusable(file, error.strerror or "unknown error") from error


def refuse_special(file: Path) -> None:
    """Raises UsageError if the path is a device or a folder: `keep` would replace a device."""
    with suppress(OSError):  # `keep` says why the file can't be used
        if file.exists() and not file.is_file():
            raise _unusable(file, "it is not a file")


def _unusable(file: Path, reason: str) -> UsageError:
    hint = "name a file in a folder that this user may write to, such as /var/lib/docora"
    return UsageError(f"--changes {file}: {reason}", hint=hint)
