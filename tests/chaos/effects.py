"""Faults that last for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class _Effect:
    step: int
    moment: float
    end: Callable[[], object]


@dataclass
class Effects:
    """Ends each fault once its step of the round has come, and its moment."""

    _effects: list[_Effect] = field(default_factory=list)

    def add(self, end: Callable[[], object], step: int, seconds: float = 0) -> None:
        """`end` is called in this step or later, and not before so many seconds have gone by."""
        self._effects.append(_Effect(step, time.monotonic() + seconds, end))

    def end_due(self, step: int) -> None:
        """End those whose time has come."""
        now = time.monotonic()
        due = [effect for effect in self._effects if effect.step <= step and effect.moment <= now]
        self._effects = [effect for effect in self._effects if effect not in due]
        for effect in due:
            effect.end()

    def end_all(self) -> None:
        """End all: those that last for so many seconds, then."""
        for effect in sorted(self._effects, key=lambda effect: effect.moment):
            time.sleep(max(0, effect.moment - time.monotonic()))
            effect.end()
        self._effects.clear()
