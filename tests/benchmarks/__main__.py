"""`make bench`: measures bulk retries, schedules, the start, and workers.

Compare the ratios: they compare processes that ran one after the other on the same machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from docora_ops.demo import servers
from tests.benchmarks import drain, world
from tests.benchmarks.ways import WAYS, Results, measure, show

BIN = Path(sys.executable).parent
CHOICES = ("throughput", "start", "drain")
# Link by link takes minutes, and its time per link does not depend on the number of links.
LINK_BY_LINK_SAMPLE = 2_000
SIX_PACKAGES = "import psycopg, pydantic_settings, redis, rich.console, rq, typer"


def throughput(sizes: Sequence[int], rounds: int) -> None:
    """Queues links in every way, and compares the time per link at the smallest and largest size.

    Before "all waiting" and "all orphaned" each link has a job already: in the queue's list, or
    in no list.
    """
    by_size: dict[int, Results] = {}
    for size in sizes:
        results = by_size[size] = {}
        for _ in range(rounds):
            for way in WAYS:
                status = "synced" if way == "schedule" else "failed"
                world.fill(size, status, jobs=way.removeprefix("all ") if "all" in way else "")
                limit = min(size, LINK_BY_LINK_SAMPLE) if way == "link by link" else size
                results.setdefault(way, []).append(measure(way, limit))
        print(f"\n{size:,} links, median of {rounds}")
        show(results, "ours")
    small, large = min(sizes), max(sizes)
    for way in ("ours", "all waiting", "all orphaned") if small < large else ():
        pairs = zip(by_size[large][way], by_size[small][way], strict=True)
        ratio = statistics.median(many.microseconds / few.microseconds for many, few in pairs)
        print(f"  {way}: a link among {large:,} takes {ratio:.2f} times one among {small:,}")


def cold_start(rounds: int) -> None:
    """Runs whole processes: ours and the baseline in turn."""
    ours = str(BIN / "docora-ops")
    print(f"\ncold start, median of {rounds}")
    for arguments, baseline in (
        (["--help"], [sys.executable, "-c", "import rq"]),
        (
            ["retry", f"app_{1:024x}", f"repo_{1:024x}"],
            [sys.executable, "-c", SIX_PACKAGES],
        ),
    ):
        runs = []
        for _ in range(rounds):
            world.fill(world.APPS)
            runs.append((wall_seconds([ours, *arguments]), wall_seconds(baseline)))
        ratio = statistics.median(own / other for own, other in runs)
        own, other = (statistics.median(seconds) * 1000 for seconds in zip(*runs, strict=True))
        print(f"  {arguments[0]}: {own:.0f} ms, {ratio:.2f} of `{baseline[-1]}` ({other:.0f} ms)")


def wall_seconds(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--links", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CHOICES)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.postgres(Path(folder)) as database_url,
        servers.valkey(Path(folder)) as redis_url,
    ):
        os.environ |= {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "DOCORA_OPS_BACKEND": "rq",
        }
        world.create_tables()
        if options.only in {None, "start"}:
            cold_start(options.rounds * 5)
        if options.only in {None, "throughput"}:
            throughput(options.links or [10_000, 100_000], options.rounds)
        if options.only in {None, "drain"}:
            drain.compare(Path(folder), options.rounds)


if __name__ == "__main__":
    main()
