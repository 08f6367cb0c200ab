"""The clocks of this host, Postgres and Redis, as `doctor` compares them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from docora_ops.diagnosis import Check, CheckName, CheckState

_WARNING = 5
_FAILURE = 30
"""Seconds. A worker that is further off cleans up nothing."""


def seconds_ahead(read: Callable[[], float]) -> float:
    """Returns how far the clock that is read is ahead of this host's."""
    before = time.time()
    found = read()
    return found - (before + time.time()) / 2


def check_clocks(ahead: Mapping[str, float]) -> Check:
    """Compares this host's clock with those of the servers, given by name as seconds ahead."""
    name = CheckName.CLOCKS
    if not ahead:
        return Check(name, CheckState.NOT_CHECKED, "needs what failed above")
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    difference = clocks[first] - clocks[last]
    if difference <= _WARNING:
        return Check(name, CheckState.OK, f"{_listed(clocks)} agree to {_WARNING} s")
    return Check(
        name,
        CheckState.FAILED if difference > _FAILURE else CheckState.WARNING,
        f"{first} is {difference:,.0f} s ahead of {last}",
        "set the clocks by NTP on each host: heartbeats and due times are judged by them",
    )


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"
