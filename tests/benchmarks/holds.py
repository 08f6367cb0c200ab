"""How long each command holds Redis: the longest command or script of Redis while it runs."""

import os
import subprocess
import sys
from pathlib import Path

import redis

from tests.benchmarks import world

BIN = Path(sys.executable).with_name("docora-ops")
MOST = 50
"""Milliseconds."""
LIST = f"rq:queue:{world.QUEUE}"
SOME = "id IN (SELECT id FROM app_repositories WHERE app_id = '{}' ORDER BY repository_id LIMIT {})"


def compare(links: int, rounds: int) -> bool:
    """Prints how long each command holds Redis. Returns whether one of them holds it too long."""
    world.fill(links, "pending_snapshot")
    run("schedule")
    # Jobs in the middle of the list, which takes the longest to walk to.
    some, front, gone, one = (f"app_{world.APPS // 2 + each:024x}" for each in range(4))
    one += f" repo_{links // world.APPS // 2:024x}"
    connection, client = world.connect()
    with connection, client:
        for app in (some, front):
            which = SOME.format(app, 5000)
            connection.execute(f"UPDATE app_repositories SET status = 'failed' WHERE {which}")
        connection.execute(f"DELETE FROM app_repositories WHERE {SOME.format(gone, 500)}")
        pipeline = client.pipeline()
        for index in range(7, links, max(1, links // 200)):
            pipeline.lindex(LIST, index)
        client.rpush(LIST, *pipeline.execute())
        print(f"\n{links:,} waiting jobs: the longest command of Redis, the least of {rounds}")
        longest = 0.0
        for command in (
            *("status", "metrics", "links", "links --page 9 --limit 1000", "failed", "apps"),
            *("queue", f"show {one}", f"retry {one}", f"resync {one}", f"resync {one} --front"),
            f"wait {one} --timeout 1",
            f"retry-all-failed --app {some} --dry-run",
            f"retry-all-failed --app {some} --limit 1000 --yes --wait --timeout 1",
            f"retry-all-failed --app {front} --limit 1000 --yes --front",
            f"resync app_{1:024x} --all --yes",
            *("operations", "history", "schedule --dry-run", "schedule", "doctor"),
            *("repair --dry-run", "repair --yes"),
        ):
            # The next round would find less to do.
            times = 1 if command.endswith(("--front", "repair --yes")) else rounds
            held, what = min(hold(client, command) for _ in range(times))
            longest = max(longest, held)
            mark = "  TOO LONG" if held > MOST else ""
            print(f"  {command[:72]:<72}{held:>6.0f} ms  {what}{mark}", flush=True)
    return longest > MOST


def hold(client: redis.Redis, command: str) -> tuple[float, str]:
    """Runs a command; returns the milliseconds and the name of the longest command of Redis."""
    client.config_set("slowlog-max-len", 100_000)
    client.config_set("slowlog-log-slower-than", 1000)
    client.slowlog_reset()
    run(*command.split())
    client.config_set("slowlog-log-slower-than", -1)
    slow = [(each["duration"] / 1000, each["command"]) for each in client.slowlog_get(100_000)]
    milliseconds, words = max(slow, default=(0.0, b""))
    name, *arguments = words.decode(errors="replace").split()[:4] or [""]
    return milliseconds, " ".join([name, *arguments[2:]]) if name == "EVALSHA" else name


def run(*arguments: str) -> None:
    """Runs docora-ops."""
    environment = os.environ | {
        "DOCORA_OPS_DRIFT_GRACE": "0",
        "DOCORA_OPS_STATEMENT_TIMEOUT": "600",
    }
    command = [str(BIN), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert result.returncode not in {1, 2, 3, 5}, (command, result.stderr)
