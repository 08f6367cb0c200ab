"""Bulk retries with `--in-flight`: what the pace costs, and what it spares.

As a program: `pace worker`, a worker that has each link in sync at once, until killed.
"""

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from docora_ops.demo.receiver import CREATED, Receiver, Request
from tests.benchmarks import snapshots, world
from tests.benchmarks.measured import Results, measure, show

LINKS = 10_000
LIVE_APPS = 9
REPOSITORIES = 10
DEAD = "dead"
"""Name of the app that does not answer, and error of its links."""
WORKERS = 2
LEFT = "SELECT count(*) FROM app_repositories WHERE app_id <> %s AND status <> 'synced'"
_MOST_AT_ONCE = 1_000
_PAUSE = 0.01
COMMAND = str(Path(sys.executable).parent / "docora-ops")


def compare(folder: Path, rounds: int) -> None:
    """Prints how fast links are fed, and how long live apps wait beside one that is down."""
    results: Results = {"plain": [], "in flight": []}
    for _ in range(rounds):
        world.fill(LINKS)
        results["plain"].append(measure("ways", "ours", str(LINKS)))
        world.fill(LINKS)
        with worker():
            results["in flight"].append(measure("ways", "in flight", str(LINKS)))
    print(f"\n{LINKS:,} links, --in-flight 1000, in sync at once, median of {rounds}")
    show(results, "plain")
    ratios = [beside_a_dead_app(folder) for _ in range(rounds)]
    print(
        f"  {LIVE_APPS} live apps beside one that does not answer, two workers, --in-flight 2: "
        f"{statistics.median(ratios):.2f} times their time alone"
    )


def beside_a_dead_app(folder: Path) -> float:
    """Returns how many times as long live apps take beside one that does not answer."""
    os.environ |= {
        "ENCRYPTION_KEY": snapshots.KEY.hex(),
        "REPOS_BASE_PATH": str(folder / "clones-for-apps"),
        "DOCORA_OPS_GIT_PROTOCOLS": "file",
    }
    over = threading.Event()

    def answer(request: Request) -> int:
        if request.app == DEAD:
            over.wait()
        return CREATED

    apps = [DEAD, *(f"app{number}" for number in range(2, LIVE_APPS + 2))]
    with Receiver(dict.fromkeys(apps, snapshots.AUTH_KEY), answer).serving() as app:
        try:
            alone, beside = (
                seconds_until_in_sync(folder, list(map(app.base_url, apps)), *options)
                for options in (("--exclude-error", DEAD), ("--in-flight", "2"))
            )
        finally:
            over.set()
    return beside / alone


def seconds_until_in_sync(folder: Path, base_urls: list[str], *options: str) -> float:
    """Retries all links with two workers. Returns when those of the live apps were in sync."""
    add_links(folder / "upstreams", base_urls)
    connection, client = world.connect()
    retry = [COMMAND, "retry-all-failed", *options]
    with program(COMMAND, "worker", "--concurrency", str(WORKERS)):
        while client.scard("rq:workers") < WORKERS:
            time.sleep(_PAUSE)
        start = time.perf_counter()
        with program(*retry):
            while connection.execute(LEFT, (f"app_{1:024x}",)).fetchone() != (0,):
                time.sleep(_PAUSE)
            return time.perf_counter() - start


def add_links(folder: Path, base_urls: list[str]) -> None:
    """Empties both servers and links each app to each of a few small repositories."""
    world.fill(world.APPS * REPOSITORIES)
    execute = snapshots.execute
    execute("UPDATE apps SET client_auth_key_encrypted = %s", snapshots.sealed_auth_key())
    execute("UPDATE app_repositories SET github_token_encrypted = NULL")
    execute("DELETE FROM app_repositories WHERE app_id > %s", f"app_{len(base_urls):024x}")
    for number, base_url in enumerate(base_urls, start=1):
        execute("UPDATE apps SET base_url = %s WHERE app_id = %s", base_url, f"app_{number:024x}")
    execute("UPDATE app_repositories SET last_error = %s WHERE app_id = %s", DEAD, f"app_{1:024x}")
    for number in range(1, REPOSITORIES + 1):
        url = snapshots.make_upstream(folder / str(number), files=10)
        execute(
            "UPDATE repositories SET github_url = %s WHERE repository_id = %s",
            *(url, f"repo_{number:024x}"),
        )


@contextmanager
def program(*command: str) -> Iterator[None]:
    """Runs a program, and kills it with its processes, but for jobs that run."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def worker() -> Iterator[None]:
    """Runs the worker that has each link in sync at once."""
    with program(sys.executable, "-m", "tests.benchmarks.pace", "worker"):
        yield


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
