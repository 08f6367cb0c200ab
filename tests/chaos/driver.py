"""Plays rounds on its own servers, and checks after each round what is left."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.apps import Apps
from tests.chaos.checks import check_round
from tests.chaos.invariants import Broken
from tests.chaos.round import Round, Size
from tests.chaos.servers import Postgres, Valkey, running_servers
from tests.chaos.steps import STEPS
from tests.chaos.world import Producer, make_upstreams, make_world
from tests.support.fork_server import ForkServer
from tests.support.privileges import Access
from tests.support.receiver import Receiver
from tests.support.snapshots import Snapshots, Upstream

FULL = Size(apps=24, repositories=10, steps=80, may_suspend=True)
SMALL = Size(apps=8, repositories=4, steps=30, may_suspend=False)


@dataclass
class Driver:
    """Plays rounds; seed and number fix the steps of a round, but not their timing."""

    seed: int
    size: Size
    directory: Path
    """Keeps the output of all processes, in a folder for each round."""
    postgres: Postgres
    valkey: Valkey
    fork_server: ForkServer
    upstreams: dict[str, Upstream] = field(init=False)

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
        apps = Apps()
        try:
            with Receiver(answer=apps.answer).serving() as receiver:
                snapshots = Snapshots(producer, self.directory, receiver)
                world = make_world(
                    snapshots, producer, apps, self.upstreams, self.size.apps, random
                )
                played = Round(world, self.postgres, self.valkey, random, logs, self.size)
                try:
                    played.run(STEPS)
                    producer.reconnect()
                    check_round(played)
                except Exception as error:
                    raise Broken(self._account(number, played, error)) from error
                return played
        finally:
            producer.close()

    def _account(self, number: int, played: Round, error: Exception) -> str:
        is_broken = isinstance(error, Broken)
        what = str(error) if is_broken else "".join(traceback.format_exception(error))
        story = "\n".join(played.story)
        return f"seed {self.seed}, round {number}\n{story}\n\n{what}\n\nlogs: {played.logs}"


@contextmanager
def driver(seed: int, size: Size, directory: Path) -> Iterator[Driver]:
    """Starts the servers of a driver."""
    with running_servers(directory) as (postgres, valkey):
        fork_server = ForkServer(directory)
        try:
            yield Driver(seed, size, directory, postgres, valkey, fork_server)
        finally:
            fork_server.close()
