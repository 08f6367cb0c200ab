"""How long it takes to find what is out of step, and to mend it.

As a program: `drift find` or `drift repair`, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from docora_ops.actions.repair.find import find_drift
from docora_ops.actions.repair.fix import Repair
from docora_ops.database import Database
from docora_ops.drift import Mending
from docora_ops.queue import LinkQueue, ProgressStore, connect
from tests.benchmarks import world
from tests.benchmarks.ways import settings

MILLION = 1_000_000
OLD = "UPDATE app_repositories SET created_at = now() - interval '1 hour'"


@dataclass(frozen=True)
class Measured:
    """One process."""

    found: int
    seconds: float
    peak_mib: float


def report(links: int, rounds: int) -> None:
    """Print how long each takes; `links` are mended."""
    database_url, redis_url = os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
    print("\ndrift")
    world.fill(database_url, redis_url, MILLION, status="synced")
    queue_jobs(1000)
    show("1,000,000 links in sync, 1,000 jobs waiting", measure("find"))
    for jobs in (100_000, MILLION):
        world.fill(database_url, redis_url, jobs, status="failed")
        queue_jobs(jobs)
        show(f"{jobs:,} links, all their jobs waiting", measure("find"), jobs)
    for _ in range(rounds):
        for amount in (links // 10, links):
            world.fill(database_url, redis_url, amount, status="pending_snapshot")
            execute(OLD)
            show(f"repair of {amount:,} lost links", measure("repair"), amount)
            world.fill(database_url, redis_url, amount)
            show(f"bulk retry of {amount:,} links", measure_retry(amount), amount)


def queue_jobs(amount: int) -> None:
    """Have the jobs of so many links wait, in the way of a bulk retry."""
    execute(
        "UPDATE app_repositories SET status = 'failed' WHERE id IN"
        f" (SELECT id FROM app_repositories LIMIT {amount})"
    )
    measure_retry(amount)
    execute(OLD)
    execute("VACUUM ANALYZE")


def execute(statement: str) -> None:
    """One statement."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(statement.encode())


def measure(what: str) -> Measured:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.drift", what]
    return Measured(**json.loads(subprocess.run(command, check=True, stdout=-1).stdout))


def measure_retry(links: int) -> Measured:
    """Of as many links, for comparison."""
    command = [sys.executable, "-m", "tests.benchmarks.ways", "ours", str(links)]
    output = json.loads(subprocess.run(command, check=True, stdout=-1).stdout)
    return Measured(0, output["seconds"], output["peak_mib"])


def show(name: str, item: Measured, links: int = 0) -> None:
    """One line."""
    each = f"{item.seconds / links * 1e6:>7.1f} \N{MICRO SIGN}s/link" if links else ""
    print(
        f"  {name:<46}{item.seconds:>8.2f} s{item.peak_mib:>7.0f} MiB{item.found:>9,} found {each}",
        flush=True,
    )


def find() -> int:
    """A look at everything, without grace."""
    configuration = settings()
    queue = LinkQueue(configuration, connect(configuration))
    return find_drift(Database(configuration), queue, grace_seconds=0).total


def repair() -> int:
    """A repair of everything, without grace."""
    configuration = settings()
    client = connect(configuration)
    run = Repair(
        Database(configuration),
        LinkQueue(configuration, client),
        ProgressStore(configuration, client),
        grace_seconds=0,
    )
    total = run.find().total
    assert run.run().counts[Mending.QUEUED] == total
    return total


def main() -> None:
    """Run one of them."""
    start = time.perf_counter()
    found = {"find": find, "repair": repair}[sys.argv[1]]()
    seconds = time.perf_counter() - start
    # Not getrusage, which begins with what the parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"found": found, "seconds": seconds, "peak_mib": peak}))


if __name__ == "__main__":
    main()
