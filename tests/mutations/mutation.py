"""A promise that is broken on purpose, in one place of the package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Promise(StrEnum):
    """What docora-ops promises whatever happens."""

    NEVER_LOST = "a link that we touched has a live job"
    NEVER_TWICE = "a link has one job, and one that is at work"
    ONLY_WHAT_QUALIFIES = "what has changed since the choice is left alone"
    LIVE_IS_KEPT = "a live job is known as such, and kept"
    DEAD_IS_CLEARED = "what a dead job has left goes"
    RUNNING_IS_LEFT = "nothing is changed under a running job"
    DOUBT_IS_WAITED_OUT = "what is doubtful is looked at again"
    READING_IS_READING = "what only reads writes nothing"
    CRASH_ONLY = "whatever cuts a run off, the next one finishes it"
    POISON_IS_ALONE = "a poisonous row or job costs only itself"
    OTHERS_ARE_LEFT_ALONE = "what others share with us is as they left it"
    NOTHING_HANGS = "every wait has an end"
    SECRETS_STAY = "secrets are shown nowhere"
    TEXT_IS_INERT = "text of strangers is only text"
    CODES_HOLD = "exit codes and documents are as promised"
    PROGRESS_IS_SHARED = "progress is told, cancelling heard, and both forgotten"
    ABSENCE_DELETES_NOTHING = "an empty answer is no order to delete"
    DELIVERED_IS_RECORDED = "what is recorded as delivered was acknowledged"


class DoesNotApplyError(Exception):
    """The text that a mutation replaces is not there exactly once."""


@dataclass(frozen=True)
class Mutation:
    """One change to one file, by exact text; `tests` are the names of those that should fail."""

    name: str
    promise: Promise
    file: str
    changes: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]

    def apply(self, source: str) -> str:
        """The changed source. Raises DoesNotApplyError."""
        for old, new in self.changes:
            if source.count(old) != 1:
                raise DoesNotApplyError(
                    f"{self.name}: {source.count(old)} times in {self.file}: {old!r}"
                )
            source = source.replace(old, new)
        return source


class Tests:
    """Where each test of a folder stands, so that a mutation need only name it."""

    __test__ = False

    def __init__(self, root: Path) -> None:
        self._ids: dict[str, list[str]] = {}
        for path in sorted((root / "tests").rglob("test_*.py")):
            file = path.relative_to(root).as_posix()
            for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE):
                self._ids.setdefault(name, []).append(f"{file}::{name}")

    def ids(self, name: str) -> list[str]:
        """For pytest; of all tests with this name. Raises LookupError when there is none."""
        name, bracket, case = name.partition("[")
        return [test + bracket + case for test in self._ids[name]]
