"""What lies between the processes of a round and the servers: proxies and, for some, a pooler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.chaos.servers import Postgres, Valkey
from tests.support.pgbouncer import PROGRAM, Neighbours, pgbouncer
from tests.support.privileges import Access, with_login
from tests.support.proxy import Proxy

POSTGRES_PASSWORD = "a-password-of-postgres"
_POOL_SIZE = 2


@dataclass(frozen=True)
class Between:
    """A proxy before each server, and a PgBouncer, if installed, before that of Postgres."""

    to_postgres: Proxy
    to_redis: Proxy
    database_url: str
    """How workers reach Postgres, and commands that do not go through the pooler."""
    pool_url: str | None

    @property
    def requests(self) -> int:
        """How many there have been."""
        return self.to_postgres.forwarded + self.to_redis.forwarded

    def left_in_pool(self) -> list[object]:
        """What commands have left behind in the pool's sessions, which nobody may use meanwhile."""
        assert self.pool_url is not None
        url = self.database_url
        next_client = Neighbours(Access(url, url, url, url), self.pool_url)
        next_client.look_everywhere(_POOL_SIZE)
        return next_client.strange

    def name(self, proxy: Proxy) -> str:
        """The server behind this proxy."""
        return "redis" if proxy is self.to_redis else "postgres"


@contextmanager
def standing_between(postgres: Postgres, valkey: Valkey) -> Iterator[Between]:
    """Starts the proxies and the PgBouncer, which pools transactions."""
    with ExitStack() as stack:
        to_postgres = stack.enter_context(Proxy.before_postgres(postgres.url))
        to_redis = stack.enter_context(Proxy.before_redis(valkey.url))
        url = with_login(to_postgres.url, "postgres", POSTGRES_PASSWORD)
        pool_url = None
        if PROGRAM is not None:
            pooled = pgbouncer(Access(url, url, url, url), "transaction", _POOL_SIZE)
            pool_url = stack.enter_context(pooled).command
        yield Between(to_postgres, to_redis, url, pool_url)
