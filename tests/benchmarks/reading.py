"""The commands that only read, on a million links, beyond a start with the same imports."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
import redis
from rq import Queue

from tests.benchmarks import world

LINKS = 1_000_000
WAITING = 1_000
COMMAND = str(Path(sys.executable).parent / "docora-ops")
APP, REPOSITORY = f"app_{1:024x}", f"repo_{1:024x}"

# Whatever the command imports, and no server.
START = (
    "import gc; gc.disable(); import psycopg, redis, rq, docora_ops.cli.app,"
    " docora_ops.actions.failed, docora_ops.actions.show, docora_ops.render.view_tables,"
    " docora_ops.render.view_documents, docora_ops.settings; gc.freeze()"
)
COMMANDS = (
    ("failed",),
    ("failed", "--json"),
    ("failed", "--error", "http 502"),
    ("failed", "--page", str(LINKS // 50 // 2)),
    ("failed", "--group-by", "app"),
    ("failed", "--group-by", "error"),
    ("queue",),
    ("show", APP, REPOSITORY),
    ("show", "App 1", "octo/repo1"),
)

# Four of eight errors differ from link to link.
SPREAD_ERRORS = """
UPDATE app_repositories SET last_error = CASE hashtext(id::text) & 7
    WHEN 0 THEN 'connect ETIMEDOUT 10.0.0.' || (hashtext(id::text) & 255) || ':443'
    WHEN 1 THEN 'fatal: repository ''https://x.example/' || left(id::text, 6) || ''' not found'
    WHEN 2 THEN 'HTTP 500 on created src/' || id || '/index.ts'
    WHEN 3 THEN 'HTTP 502 on updated docs/' || left(id::text, 8) || '.md'
    ELSE 'HTTP 500 on created README.md' END
"""


def fill() -> None:
    """A million failed links and a thousand jobs that wait."""
    world.fill(os.environ["DATABASE_URL"], os.environ["REDIS_URL"], LINKS)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(SPREAD_ERRORS.encode())
        connection.execute("VACUUM (FULL, ANALYZE) app_repositories")
        ids = connection.execute(
            "SELECT app_id || '-' || repository_id FROM app_repositories"
            " ORDER BY app_id, repository_id LIMIT %s",
            (WAITING,),
        ).fetchall()
    queue = Queue(world.QUEUE, connection=redis.Redis.from_url(os.environ["REDIS_URL"]))
    queue.enqueue_many(
        Queue.prepare_data("other.producer", job_id=job_id, description="other")
        for (job_id,) in ids
    )


def wall_seconds(arguments: Sequence[str]) -> float:
    """How long a command takes from start to end."""
    start = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def report(rounds: int) -> None:
    """Fill the stores, then run each command `rounds` times, the imports alone before each."""
    fill()
    print(f"\n{LINKS:,} failed links, {WAITING:,} jobs waiting, median of {rounds}")
    imports = [sys.executable, "-c", START]
    for arguments in COMMANDS:
        runs = [(wall_seconds(imports), wall_seconds([COMMAND, *arguments])) for _ in range(rounds)]
        beyond = statistics.median(seconds - start for start, seconds in runs)
        start = statistics.median(start for start, _ in runs)
        print(f"  {' '.join(arguments):<66}{beyond:>6.2f} s beyond {start:.2f} s", flush=True)
