"""What lies between the processes of a round and the servers: proxies and, for some, a pooler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from tests.chaos.servers import Postgres, Valkey
from tests.pgbouncer import PROGRAM, pgbouncer
from tests.prescribed import Access, with_login
from tests.proxy import Proxy

POSTGRES_PASSWORD = "a-password-of-postgres"
_POOL_SIZE = 2

_LEFT_BEHIND = """
SELECT name || ' = ' || setting FROM pg_settings
WHERE source = 'session' AND (name LIKE '%timeout' OR name LIKE 'tcp%')
UNION ALL SELECT 'the cursor ' || name FROM pg_cursors WHERE is_holdable
UNION ALL SELECT 'the table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()
UNION ALL SELECT 'an advisory lock' FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid()
"""


@dataclass(frozen=True)
class Between:
    """A proxy before each server, and a PgBouncer, if installed, before that of Postgres."""

    to_postgres: Proxy
    to_redis: Proxy
    pool_url: str | None

    @property
    def database_url(self) -> str:
        """How workers reach Postgres, and commands that do not go through the pooler."""
        return with_login(self.to_postgres.url, "postgres", POSTGRES_PASSWORD)

    @property
    def requests(self) -> int:
        """How many there have been."""
        return self.to_postgres.forwarded + self.to_redis.forwarded

    def name(self, proxy: Proxy) -> str:
        """The server behind this proxy."""
        return "redis" if proxy is self.to_redis else "postgres"


@contextmanager
def standing_between(postgres: Postgres, valkey: Valkey) -> Iterator[Between]:
    """Starts the proxies and the PgBouncer, which pools transactions."""
    with ExitStack() as stack:
        to_postgres = stack.enter_context(Proxy.before_postgres(postgres.url))
        to_redis = stack.enter_context(Proxy.before_redis(valkey.url))
        pool_url = None
        if PROGRAM is not None:
            url = with_login(to_postgres.url, "postgres", POSTGRES_PASSWORD)
            pooled = pgbouncer(Access(url, url, url), pool_size=_POOL_SIZE)
            pool_url = stack.enter_context(pooled).command
        yield Between(to_postgres, to_redis, pool_url)


def left_behind(pool_url: str) -> list[str]:
    """Looks at each session of the pool for what a command has left to the next client."""
    problems = []
    with ExitStack() as stack:
        for _ in range(_POOL_SIZE):
            connection = stack.enter_context(
                psycopg.connect(pool_url, autocommit=True, prepare_threshold=None)
            )
            # Open until all have been looked at, so that each has a session of its own.
            stack.enter_context(connection.transaction())
            rows = connection.execute(_LEFT_BEHIND).fetchall()
            problems += [f"left behind in the pool: {what}" for (what,) in rows]
    return problems
