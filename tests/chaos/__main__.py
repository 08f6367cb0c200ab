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
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from tests.chaos.checks import Broken, check_round
from tests.chaos.round import Round, Size
from tests.chaos.servers import Postgres, Valkey, running_servers
from tests.chaos.steps import STEPS
from tests.chaos.world import Apps, Producer, make_upstreams, make_world
from tests.support.fork_server import ForkServer
from tests.support.pgbouncer import PROGRAM
from tests.support.privileges import Access
from tests.support.receiver import Receiver
from tests.support.snapshots import Snapshots

FULL = Size(apps=24, repositories=10, steps=80)
SMALL = Size(apps=8, repositories=4, steps=30)


@dataclass
class Driver:
    """Plays rounds; seed and number fix the steps of a round, but not their timing."""

    seed: int
    size: Size
    directory: Path  # keeps the output of all processes, in a folder for each round
    postgres: Postgres
    valkey: Valkey
    fork_server: ForkServer

    def __post_init__(self) -> None:
        self.upstreams = make_upstreams(self.directory, self.size.repositories)

    def play(self, number: int) -> Round:
        """Plays one round. Raises Broken with its story and all that does not hold."""
        random = Random(f"{self.seed} {number}")
        logs = self.directory / f"round-{number}"
        logs.mkdir()
        with self.postgres.connect() as connection:
            connection.execute("TRUNCATE apps, repositories CASCADE")
        self.valkey.empty()
        postgres, redis = (
            Access(url, url, url, url) for url in (self.postgres.url, self.valkey.url)
        )
        producer = Producer(postgres, redis, self.fork_server)
        apps = Apps(producer)
        with closing(producer), Receiver(answer=apps.answer).serving() as receiver:
            snapshots = Snapshots(producer, self.directory, receiver)
            world = make_world(snapshots, producer, apps, self.upstreams, self.size.apps, random)
            played = Round(world, self.postgres, self.valkey, random, logs, self.size)
            try:
                played.run(STEPS)
                producer.reconnect()
                check_round(played)
            except Exception as error:
                is_broken = isinstance(error, Broken)
                what = str(error) if is_broken else "".join(traceback.format_exception(error))
                story = [f"seed {self.seed}, round {number}", *played.story, what, f"logs: {logs}"]
                raise Broken("\n".join(story)) from error
            return played


@contextmanager
def driver(seed: int, size: Size, directory: Path) -> Iterator[Driver]:
    with running_servers(directory) as stores, closing(ForkServer(directory)) as fork_server:
        yield Driver(seed, size, directory, *stores, fork_server)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description=__doc__)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=int, default=480)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if PROGRAM is None:
        print("PgBouncer is not installed: all commands connect to Postgres directly", flush=True)
    logging.getLogger("rq").addHandler(logging.NullHandler())
    directory = Path(tempfile.mkdtemp(prefix="docora-ops-chaos-"))
    directory.chmod(0o755)
    end, longest = time.monotonic() + options.seconds, 0.0
    played: list[Round] = []
    with driver(options.seed, FULL, directory) as chaos:
        while time.monotonic() + longest < end:
            began = time.monotonic()
            try:
                played.append(chaos.play(len(played) + 1))
            except Broken as broken:
                print(f"\n{broken}", file=sys.stderr)
                return 1
            longest = max(longest, time.monotonic() - began)
            print(f"round {len(played)}: {describe(played[-1:])}", flush=True)
    print(f"\nall {len(played)} rounds: {describe(played)}")
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def describe(rounds: list[Round]) -> str:
    processes = [process for each in rounds for process in each.processes]
    codes = Counter(process.process.returncode for process in processes)
    faults = sum((each.faults for each in rounds), Counter[str]())
    return (
        f"{sum(len(each.world.links) for each in rounds)} links, {len(processes)} processes by exit"
        f" code {dict(sorted(codes.items()))}, {sum(each.is_pooled for each in processes)} of them"
        f" through PgBouncer, {faults.total()} faults {dict(sorted(faults.items()))}"
    )


if __name__ == "__main__":
    sys.exit(main())
