"""Bulk retries with `--in-flight`: what the pace costs.

As a program: `pace worker`, a worker that has each link in sync at once, until killed.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from tests.benchmarks import world
from tests.benchmarks.measured import Results, measure, show

LINKS = 10_000
_MOST_AT_ONCE = 1_000


def compare(rounds: int) -> None:
    """Prints how fast links are fed."""
    results: Results = {"plain": [], "in flight": []}
    for _ in range(rounds):
        world.fill(LINKS)
        results["plain"].append(measure("ways", "ours", str(LINKS)))
        world.fill(LINKS)
        with worker():
            results["in flight"].append(measure("ways", "in flight", str(LINKS)))
    print(f"\n{LINKS:,} links, --in-flight 1000, in sync at once, median of {rounds}")
    show(results, "plain")


@contextmanager
def worker() -> Iterator[None]:
    """Runs the worker that has each link in sync at once."""
    with subprocess.Popen([sys.executable, "-m", "tests.benchmarks.pace", "worker"]) as process:
        try:
            yield
        finally:
            process.kill()


def sync_at_once() -> None:
    """Takes all jobs from the queue and has their links in sync, until killed."""
    connection, client = world.connect()
    while True:
        taken = cast("list[bytes]", client.lpop(f"rq:queue:{world.QUEUE}", _MOST_AT_ONCE) or [])
        if not taken:
            time.sleep(0.005)
            continue
        job_ids = [job_id.decode() for job_id in taken]
        client.delete(*(f"rq:job:{job_id}" for job_id in job_ids))
        pairs = [job_id.split("-") for job_id in job_ids]
        connection.execute(
            "UPDATE app_repositories l SET status = 'synced'"
            " FROM unnest(%s::text[], %s::text[]) AS done(app_id, repository_id)"
            " WHERE l.app_id = done.app_id AND l.repository_id = done.repository_id",
            tuple(map(list, zip(*pairs, strict=True))),
        )


if __name__ == "__main__":
    sync_at_once()
