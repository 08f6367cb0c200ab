"""How long each command takes and holds Redis: the longest command of Redis while it runs."""

import os
import sys
import time
from pathlib import Path

import redis

from tests.benchmarks import world

BIN = Path(sys.executable).with_name("docora-ops")
MOST = 50  # milliseconds
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
            *("status", "metrics", "failed --group-by error", "links", "failed", "apps"),
            *("queue", f"show {one}", f"retry {one}", f"resync {one}", f"resync {one} --front"),
            *(f"wait {one} --timeout 1", "links --page 9 --limit 1000"),
            f"retry-all-failed --app {some} --dry-run",
            f"retry-all-failed --app {some} --limit 1000 --yes --wait --timeout 1",
            f"retry-all-failed --app {front} --limit 1000 --yes --front",
            f"resync app_{1:024x} --all --yes",
            *("operations", "history", "schedule --dry-run", "schedule", "doctor"),
            *("repair --dry-run", "repair --yes"),
        ):
            # The next round would find less to do.
            times = 1 if command.endswith(("--front", "repair --yes")) else rounds
            held, what, seconds, mib = min(hold(client, command) for _ in range(times))
            longest = max(longest, held)
            cost = (
                f"{held:>6.0f} ms{'  TOO LONG' * (held > MOST)}  {seconds:>5.1f} s {mib:>5.0f} MiB"
            )
            print(f"  {command[:72]:<72}{cost}  {what}", flush=True)
    return longest > MOST


def hold(client: redis.Redis, command: str) -> tuple[float, str, float, float]:
    """Runs a command. Returns Redis's longest command (ms, name), and the run's seconds and MiB."""
    client.config_set("slowlog-max-len", 100_000)
    client.config_set("slowlog-log-slower-than", 1000)
    client.slowlog_reset()
    start = time.perf_counter()
    mib = run(*command.split())
    seconds = time.perf_counter() - start
    client.config_set("slowlog-log-slower-than", -1)
    slow = [(each["duration"] / 1000, each["command"]) for each in client.slowlog_get(100_000)]
    milliseconds, words = max(slow, default=(0.0, b""))
    name, *arguments = words.decode(errors="replace").split()[:4] or [""]
    what = " ".join([name, *arguments[2:]]) if name == "EVALSHA" else name
    return milliseconds, what, seconds, mib


def run(*arguments: str) -> float:
    """Runs docora-ops; returns the most memory that it took, in MiB."""
    more = {"DOCORA_OPS_DRIFT_GRACE": "0", "DOCORA_OPS_STATEMENT_TIMEOUT": "600"}
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    pid = os.posix_spawn(BIN, [str(BIN), *arguments], os.environ | more, file_actions=nowhere)
    _, status, used = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) not in {1, 2, 3, 5}, arguments
    return used.ru_maxrss / 1024
