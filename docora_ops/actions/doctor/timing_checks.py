"""Checks of the clocks, and of how long the servers take for an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from docora_ops.diagnosis import Check, CheckName, failed, ok, warning
from docora_ops.jobs import Worker
from docora_ops.status import SLOW_MS, TOO_SLOW_MS
from docora_ops.text import amount

_CLOCK_WARNING = 5
_CLOCK_FAILURE = 20  # seconds; a worker whose clock is further off takes no job


def seconds_ahead(read: Callable[[], float]) -> float:
    """Returns how far the clock that is read is ahead of this host's."""
    before = time.time()
    found = read()
    return found - (before + time.time()) / 2


def check_clocks(ahead: Mapping[str, float], workers: Iterable[Worker]) -> Iterator[Check]:
    """Compares the clocks of this host, of the servers and of the hosts of workers.

    `ahead`: seconds by which the clocks of servers are ahead of this host's, by name.
    """
    if not ahead:
        return
    clocks = {"this host": 0.0, **ahead}
    first, last = (choose(clocks, key=clocks.__getitem__) for choose in (max, min))
    largest = clocks[first] - clocks[last]
    found = [f"{first} is {largest:,.0f} s ahead of {last}"] if largest > _CLOCK_WARNING else []
    known = [each for each in workers if each.clock_ahead_seconds is not None]
    wrong = [each for each in known if _difference(each) > _CLOCK_WARNING]
    for host in dict.fromkeys(each.hostname for each in wrong):
        worst, *others = sorted(
            (each for each in wrong if each.hostname == host), key=_difference, reverse=True
        )
        more = f" and {len(others)} more" if others else ""
        direction = "ahead of" if (worst.clock_ahead_seconds or 0) > 0 else "behind"
        seconds = f"{_difference(worst):,} s {direction} Redis"
        found.append(f"{host or 'an unknown host'} (worker {worst.name}{more}) is {seconds}")
        largest = max(largest, _difference(worst))
    if not found:
        *names, last = [*clocks, *([amount(len(known), "worker")] if known else [])]
        yield ok(CheckName.CLOCKS, f"{', '.join(names)} and {last} agree to {_CLOCK_WARNING} s")
        return
    problem = failed if largest > _CLOCK_FAILURE else warning
    why = "heartbeats and due times are judged by them, and a worker that is 20 s off takes no job"
    yield problem(CheckName.CLOCKS, "; ".join(found), f"set the clocks by NTP on each host: {why}")


def _difference(worker: Worker) -> int:
    return abs(worker.clock_ahead_seconds or 0)


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
