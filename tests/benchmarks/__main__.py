"""`make bench`: how fast bulk retry, schedule, snapshot and reading commands are.

Ratios are what counts: they compare what ran a moment apart on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from docora_ops.demo import servers
from tests.benchmarks import drift, reading, snapshots, world
from tests.benchmarks.reading import wall_seconds

BIN = Path(sys.executable).parent
LINK_BY_LINK_SAMPLE = 2_000
"""Its time per link does not depend on how many there are, and it takes minutes."""


@dataclass(frozen=True)
class Measured:
    """One way, in one process."""

    links: int
    seconds: float
    peak_mib: float

    @property
    def microseconds(self) -> float:
        """Per link."""
        return self.seconds / self.links * 1e6


def measure(way: str, links: int, jobs: str = "none") -> Measured:
    """Fill the stores anew, then run one way."""
    status = "synced" if way == "schedule" else "failed"
    world.fill(os.environ["DATABASE_URL"], os.environ["REDIS_URL"], links, jobs, status)
    limit = min(links, LINK_BY_LINK_SAMPLE) if way == "link by link" else links
    output = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.ways", way, str(limit)],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    return Measured(**json.loads(output))


def median(measurements: list[Measured]) -> Measured:
    """The middle one by time per link."""
    return sorted(measurements, key=lambda item: item.microseconds)[len(measurements) // 2]


def show(name: str, item: Measured, compared: str = "") -> None:
    """One line."""
    print(
        f"  {name:<24}{item.links / item.seconds:>9,.0f} links/s{item.microseconds:>9.1f} µs/link"
        f"{item.peak_mib:>7.0f} MiB   {compared}",
        flush=True,
    )


def throughput(sizes: list[int], rounds: int) -> None:
    """All ways, at each size, round by round so that drift hits all alike."""
    ours_by_size = {}
    for size in sizes:
        print(f"\n{size:,} failed links, or due ones for the schedule, median of {rounds}")
        results: dict[str, list[Measured]] = {}
        for _ in range(rounds):
            for way in ("link by link", "enqueue_many", "floor", "ours", "schedule"):
                results.setdefault(way, []).append(measure(way, size))
        ours = median(results["ours"])
        ours_by_size[size] = ours
        for way, items in results.items():
            ratios = [
                item.microseconds / own.microseconds
                for item, own in zip(items, results["ours"], strict=True)
            ]
            ratio = statistics.median(ratios)
            compared = f"ours is {ratio:.2f} times as fast"
            if way == "ours":
                compared = ""
            elif way == "schedule":
                compared = f"{1 / ratio:.2f} times as fast as ours"
            show(way, median(items), compared)
    compare_sizes("ours", ours_by_size)


def other_states(sizes: list[int], rounds: int) -> None:
    """Links whose jobs wait already, or whose jobs are in no list."""
    for jobs in ("waiting", "orphaned"):
        print(f"\nours, where the jobs of all links are {jobs} already, median of {rounds}")
        by_size = {}
        for size in sizes:
            by_size[size] = median([measure("ours", size, jobs) for _ in range(rounds)])
            show(f"{size:,} links", by_size[size])
        compare_sizes(jobs, by_size)


def compare_sizes(name: str, by_size: dict[int, Measured]) -> None:
    """Whether the time per link stays the same."""
    small, large = min(by_size), max(by_size)
    if small < large:
        ratio = by_size[large].microseconds / by_size[small].microseconds
        print(f"  {name}: a link among {large:,} takes {ratio:.2f} times one among {small:,}")


def cold_start(rounds: int) -> None:
    """Whole processes, in turn."""
    database_url, redis_url = os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
    command = str(BIN / "docora-ops")
    pairs = (
        ("--help", [command, "--help"], "rq --help", [str(BIN / "rq"), "--help"]),
        (
            "one retry",
            [command, "retry", f"app_{1:024x}", f"repo_{1:024x}"],
            "import psycopg, redis, rq",
            [sys.executable, "-c", "import psycopg, redis, rq"],
        ),
    )
    print(f"\ncold start, median of {rounds}")
    for name, arguments, baseline_name, baseline in pairs:
        own, other = [], []
        for _ in range(rounds):
            world.fill(database_url, redis_url, world.APPS)
            own.append(wall_seconds(arguments))
            other.append(wall_seconds(baseline))
        ratio = statistics.median(a / b for a, b in zip(own, other, strict=True))
        print(
            f"  {name}: {statistics.median(own) * 1000:.0f} ms, {ratio:.2f} times "
            f"`{baseline_name}` ({statistics.median(other) * 1000:.0f} ms)"
        )


def main() -> None:
    """Run all benchmarks on servers of their own."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--links", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    names = ("throughput", "states", "start", "drift", "snapshot", "see")
    parser.add_argument("--only", choices=names)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        servers.postgres(Path(directory)) as database_url,
        servers.valkey(Path(directory)) as redis_url,
    ):
        os.environ |= {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        world.load_schema(database_url)
        if options.only in {None, "start"}:
            cold_start(options.rounds * 5)
        if options.only in {None, "throughput"}:
            throughput(options.links, options.rounds)
        if options.only in {None, "states"}:
            other_states(options.links, options.rounds)
        if options.only in {None, "drift"}:
            drift.report(max(options.links), options.rounds)
        if options.only in {None, "snapshot"}:
            snapshots.report(database_url, Path(directory), options.rounds)
        if options.only in {None, "see"}:
            reading.report(options.rounds)


if __name__ == "__main__":
    main()
