"""Checks of the clocks, and of how long the servers take for an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from docora_ops.diagnosis import Check, CheckName, failed, ok, warning
from docora_ops.status import SLOW_MS, TOO_SLOW_MS

_CLOCK_WARNING = 5
_CLOCK_FAILURE = 30  # seconds; a worker whose clock is further off cleans up nothing


def seconds_ahead(read: Callable[[], float]) -> float:
    """Returns how far the clock that is read is ahead of this host's."""
    before = time.time()
    found = read()
    return found - (before + time.time()) / 2


def check_clocks(ahead: Mapping[str, float]) -> Iterator[Check]:
    """Compares this host's clock with the servers' clocks, given by name as seconds ahead."""
    name = CheckName.CLOCKS
    if not ahead:
        return
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    difference = clocks[first] - clocks[last]
    if difference <= _CLOCK_WARNING:
        *others, last = clocks
        yield ok(name, f"{', '.join(others)} and {last} agree to {_CLOCK_WARNING} s")
        return
    found = f"{first} is {difference:,.0f} s ahead of {last}"
    problem = failed if difference > _CLOCK_FAILURE else warning
    why = "heartbeats and due times are judged by them"
    yield problem(name, found, f"set the clocks by NTP on each host: {why}")


def check_latency(latencies: Mapping[str, float | None]) -> Iterator[Check]:
    """Judges how long one answer of each server takes, in seconds; None if that is not known."""
    known = {name: seconds * 1000 for name, seconds in latencies.items() if seconds is not None}
    if not known:
        return
    slowest = max(known, key=known.__getitem__)
    found = "an answer takes " + " and ".join(
        f"{each:,.{1 if each < 10 else 0}f} ms from {name}"  # noqa: PLR2004 - digits
        for name, each in known.items()
    )
    if known[slowest] <= SLOW_MS:
        yield ok(CheckName.LATENCY, found)
        return
    problem = failed if known[slowest] > TOO_SLOW_MS else warning
    yield problem(CheckName.LATENCY, found, f"check the load of {slowest}, and the network to it")
