"""A Docora whose Postgres has a standby, and one whose Redis has a replica."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest
from rq import Queue

from tests.support.docora import QUEUE, Docora
from tests.support.fork_server import ForkServer
from tests.support.own_servers import OwnRedis, own_redis
from tests.support.privileges import Access
from tests.support.proxy import Proxy, eventually
from tests.support.standby import Pair, primary_and_standby


@pytest.fixture
def pair(server_directory: Path) -> Iterator[Pair]:
    """A primary and its standby."""
    with primary_and_standby(Path(mkdtemp(dir=server_directory))) as pair:
        yield pair


@pytest.fixture
def replicated(pair: Pair, redis_access: Access, fork_server: ForkServer) -> Iterator[Docora]:
    """An empty Docora on the primary."""
    docora = Docora(pair.primary, redis_access, fork_server)
    docora.redis.flushdb()
    yield docora
    docora.close()


@dataclass
class RedisPair:
    """A Valkey with a replica, and a name by which commands and workers find one of them."""

    primary: OwnRedis
    replica: OwnRedis
    name: Proxy
    docora: Docora

    @property
    def url(self) -> str:
        """As commands connect, by way of the name."""
        port = self.primary.client.connection_pool.connection_kwargs["port"]
        return self.primary.url.replace(f":{port}", f":{self.name.port}")

    def cut_off(self) -> None:
        """Have the replica receive no further writes."""
        self.replica.client.replicaof("NO", "ONE")

    def promote(self) -> None:
        """Have the replica take over, whether the primary is there or not."""
        self.replica.client.replicaof("NO", "ONE")
        self.name.lead_to(self.replica.url)
        self.docora.redis_access = self.replica.access
        self.docora.redis.close()
        self.docora.redis = self.replica.client
        self.docora.queue = Queue(QUEUE, connection=self.replica.client)

    def demote(self) -> None:
        """Have the former primary follow the replica; it keeps its connections."""
        host, port = self.replica.client.connection_pool.connection_kwargs, "port"
        self.primary.client.replicaof(host["host"], str(host[port]))

    def is_in_step(self) -> bool:
        """Whether the replica has all writes."""
        primary, replica = (
            each.client.info("replication") for each in (self.primary, self.replica)
        )
        return (
            replica.get("master_link_status") == "up"
            and primary["master_repl_offset"] == replica["slave_repl_offset"]
        )


@pytest.fixture
def redis_pair(
    database_access: Access, fork_server: ForkServer, tmp_path: Path
) -> Iterator[RedisPair]:
    """An empty Docora on a Valkey with a replica that is in step."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with (
        own_redis(folders[0], **{"repl-diskless-sync-delay": "0"}) as primary,
        own_redis(folders[1]) as replica,
        Proxy.before_redis(primary.access.worker) as name,
    ):
        docora = Docora(database_access, primary.access, fork_server)
        pair = RedisPair(primary, replica, name, docora)
        address = primary.client.connection_pool.connection_kwargs
        replica.client.replicaof(address["host"], str(address["port"]))
        eventually(pair.is_in_step, "a replica in step")
        yield pair
        docora.close()


@pytest.fixture
def docora(redis_pair: RedisPair) -> Docora:
    return redis_pair.docora
