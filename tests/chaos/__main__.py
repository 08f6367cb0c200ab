"""`make chaos`: plays rounds in which processes and servers are killed, paused and cut off.

The seed fixes the steps, not their timing: the same seed is likely, but not certain, to break the
same thing again.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import SystemRandom

from tests.chaos.driver import FULL, Driver, driver
from tests.chaos.invariants import Broken
from tests.chaos.round import Round
from tests.support.pgbouncer import PROGRAM

SECONDS = 480


def main() -> int:
    """Plays rounds until the time is up; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description=__doc__)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=int, default=SECONDS)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if PROGRAM is None:
        print("PgBouncer is not installed: all commands connect to Postgres directly", flush=True)
    logging.getLogger("rq").addHandler(logging.NullHandler())
    directory = Path(tempfile.mkdtemp(prefix="docora-ops-chaos-"))
    directory.chmod(0o755)
    with driver(options.seed, FULL, directory) as chaos:
        try:
            play(chaos, options.seconds)
        except Broken as broken:
            print(f"\n{broken}", file=sys.stderr)
            return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def play(chaos: Driver, seconds: float) -> None:
    """Plays rounds while there is time for another, and prints each. Raises Broken."""
    end = time.monotonic() + seconds
    longest = 0.0
    played: list[Round] = []
    while time.monotonic() + longest < end:
        began = time.monotonic()
        played.append(chaos.play(len(played) + 1))
        took = time.monotonic() - began
        longest = max(longest, took)
        print(f"round {len(played)}, {took:.0f} s: {describe(played[-1:])}", flush=True)
    print(f"\nall {len(played)} rounds: {describe(played)}")


def describe(rounds: list[Round]) -> str:
    """Returns what happened, in numbers."""
    processes = [process for each in rounds for process in each.processes]
    faults: Counter[str] = Counter()
    for each in rounds:
        faults += each.faults
    codes = Counter(process.process.returncode for process in processes)
    by_code = ", ".join(f"{code}: {number}" for code, number in sorted(codes.items()))
    by_kind = ", ".join(f"{name} {number}" for name, number in sorted(faults.items()))
    return (
        f"{sum(len(each.world.links) for each in rounds)} links, "
        f"{len(processes)} processes by exit code ({by_code}), "
        f"{sum(process.is_pooled for process in processes)} of them through PgBouncer, "
        f"{faults.total()} faults ({by_kind})"
    )


if __name__ == "__main__":
    sys.exit(main())
