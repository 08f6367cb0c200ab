"""Compares the clocks of this host, Postgres and Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from docora_ops.diagnosis import Check, CheckName, failed, not_checked, ok, warning

_WARNING = 5
_FAILURE = 30
"""Seconds. A worker whose clock is further off cleans up nothing."""


def seconds_ahead(read: Callable[[], float]) -> float:
    """Returns how far the clock that is read is ahead of this host's."""
    before = time.time()
    found = read()
    return found - (before + time.time()) / 2


def check_clocks(ahead: Mapping[str, float]) -> Check:
    """Compares this host's clock with those of the servers, given by name as seconds ahead."""
    name = CheckName.CLOCKS
    if not ahead:
        return not_checked(name, "needs what failed above")
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    difference = clocks[first] - clocks[last]
    if difference <= _WARNING:
        *others, last = clocks
        return ok(name, f"{', '.join(others)} and {last} agree to {_WARNING} s")
    return (failed if difference > _FAILURE else warning)(
        name,
        f"{first} is {difference:,.0f} s ahead of {last}",
        "set the clocks by NTP on each host: heartbeats and due times are judged by them",
    )
