"""What N links cost Postgres, Redis and the commands, and what workers manage beside slow apps.

Worker processes with clones of their own, on one Redis and one Postgres, stand for hosts.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import cast

import psycopg
import redis

from tests.benchmarks import drain, world

LINKS = 60  # for each measurement of workers
SLOTS = 5  # of each host
FILES = 10  # of each link
ANSWERS = (0, 100, 1000)  # milliseconds that an app takes to answer
HOSTS = (1, 2, 4)
# More jobs are kept in compact hashes, as the help on capacity advises: 10,000,000 in 12.5 GB.
MOST_IN_PLAIN_HASHES = 1_000_000


def compare(folder: Path, sizes: Sequence[int]) -> None:
    """Prints what each number of links costs, and how fast slots and hosts are."""
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        "links, Postgres, Redis, then seconds: queue all, status, failed, a pass that queues none"
    )
    for size in sizes:
        print(f"{size:>10,}: {costs(size)}", flush=True)
    os.environ |= {
        "ENCRYPTION_KEY": world.KEY.hex(),
        "DOCORA_OPS_GIT_PROTOCOLS": "file",
        "DOCORA_OPS_BACKEND": "rq",
    }
    print(f"hosts of {SLOTS} slots, the app's answer, files sent and rescans without changes")
    for milliseconds in ANSWERS:
        with drain.app(milliseconds) as url:
            drain.add_links(folder / "capacity-upstreams", url, LINKS)
            for hosts in HOSTS if milliseconds == 0 else HOSTS[:1]:
                print(f"  {hosts}, {milliseconds:>5,} ms: {speed(folder, hosts)}", flush=True)


def costs(links: int) -> str:
    """Returns what links take in both servers, and how long commands take for all of them."""
    connection, client = world.connect()
    with connection, client:
        client.config_set("hash-max-listpack-value", 1024 if links > MOST_IN_PLAIN_HASHES else 64)
        world.fill(world.APPS, "synced")
        before = size_of(connection)
        world.fill(links, "synced")
        rows = size_of(connection) - before
        empty = memory_of(client)
        times = [seconds_of("schedule")]
        jobs = client.llen(f"rq:queue:{world.QUEUE}")
        memory = memory_of(client) - empty
        connection.execute("UPDATE app_repositories SET last_scanned_at = now(), status = 'synced'")
        client.flushall()
        times += [seconds_of(*words) for words in (["status"], ["failed", "--json"], ["schedule"])]
    took = " ".join(f"{seconds:.1f}" for seconds in times)
    each = f"{rows / links:.0f} B a link, {memory / max(jobs, 1):.0f} B a job ({jobs:,} jobs)"
    return f"{rows >> 20:,} MiB, {memory >> 20:,} MiB; {each}; {took}"


def size_of(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


def memory_of(client: redis.Redis) -> int:
    return cast("dict[str, int]", client.info("memory"))["used_memory"]


def seconds_of(*arguments: str) -> float:
    start = time.perf_counter()
    patient = os.environ | {"DOCORA_OPS_STATEMENT_TIMEOUT": "3600"}
    command = [*world.COMMAND, *arguments]
    done = subprocess.run(command, env=patient, check=False, capture_output=True)
    assert done.returncode in {0, 6}, done.stderr
    return time.perf_counter() - start


def speed(folder: Path, hosts: int) -> str:
    """Returns files per second of first snapshots, then links per second of rescans."""
    connection, client = world.connect()
    with connection, client:
        connection.execute("DELETE FROM app_delivered_files")
        connection.execute("DELETE FROM repository_snapshots")
        world.forget_jobs(client)
        with workers(folder, client, hosts) as pids:
            memory = sum(map(pss, pids)) / len(pids) / SLOTS
            first = synced(connection)
            for one, other in permutations(range(hosts), 2):  # so that no rescan clones
                clones, copies = f"{folder}/host{one}/.", f"{folder}/host{other}"
                subprocess.run(["cp", "-au", clones, copies], check=True)
            world.await_idle_workers(client, hosts * SLOTS)
            again = synced(connection)
    files, rescans = LINKS * FILES / first, LINKS / again
    return f"{files:.1f} files/s, {rescans:.1f} rescans/s, {memory:.1f} MiB an idle slot"


def synced(connection: psycopg.Connection) -> float:
    """Has all links scanned; returns the seconds from the command to the last link."""
    world.queue_all(connection)
    return world.seconds_until_synced(connection)


@contextmanager
def workers(folder: Path, client: redis.Redis, hosts: int) -> Iterator[list[int]]:
    processes = []
    try:
        for host in range(hosts):
            clones = folder / f"host{host}"
            shutil.rmtree(clones, ignore_errors=True)
            own = {
                "REPOS_BASE_PATH": str(clones),
                "DOCORA_OPS_HEARTBEAT_FILE": str(folder / f"host{host}.json"),
            }
            command = [*world.COMMAND, "worker", "--concurrency", str(SLOTS)]
            environment = {**os.environ, **own}
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        world.await_idle_workers(client, hosts * SLOTS)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def pss(pid: int) -> float:
    """Returns the memory of a process and its children in MiB; shared pages count in part."""
    of_process = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    found = re.search(r"^Pss: +(\d+)", of_process, re.MULTILINE)
    return int(found[1]) / 1024 + sum(pss(int(each)) for each in children) if found else 0
