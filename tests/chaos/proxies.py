"""The proxies between the processes of a round and the servers, and PgBouncer if installed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.chaos.servers import Postgres, Valkey
from tests.support.pgbouncer import PROGRAM, Neighbours, pgbouncer
from tests.support.privileges import Access, with_login
from tests.support.proxy import Proxy

POSTGRES_PASSWORD = "a-password-of-postgres"
POOL_SIZE = 2


@dataclass(frozen=True)
class Proxies:
    """A proxy before each server, and a PgBouncer before the proxy of Postgres."""

    to_postgres: Proxy
    to_redis: Proxy
    database_url: str
    """For workers, and for commands that do not go through PgBouncer."""
    pool_url: str | None

    @property
    def requests(self) -> int:
        """Returns how many requests were forwarded."""
        return self.to_postgres.forwarded + self.to_redis.forwarded

    def left_in_pool(self) -> list[object]:
        """Returns settings that commands left in the sessions of the pool."""
        assert self.pool_url is not None
        url = self.database_url
        next_client = Neighbours(Access(url, url, url, url), self.pool_url)
        next_client.look_everywhere(POOL_SIZE)
        return next_client.strange

    def name(self, proxy: Proxy) -> str:
        """Returns the name of the server behind this proxy."""
        return "redis" if proxy is self.to_redis else "postgres"


@contextmanager
def start_proxies(postgres: Postgres, valkey: Valkey) -> Iterator[Proxies]:
    """Starts the proxies and a PgBouncer that pools transactions."""
    with ExitStack() as stack:
        to_postgres = stack.enter_context(Proxy.before_postgres(postgres.url))
        to_redis = stack.enter_context(Proxy.before_redis(valkey.url))
        url = with_login(to_postgres.url, "postgres", POSTGRES_PASSWORD)
        pool_url = None
        if PROGRAM is not None:
            pooled = pgbouncer(Access(url, url, url, url), "transaction", POOL_SIZE)
            pool_url = stack.enter_context(pooled).command
        yield Proxies(to_postgres, to_redis, url, pool_url)
