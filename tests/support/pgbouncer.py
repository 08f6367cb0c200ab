"""A PgBouncer between the command and Postgres, and other clients that share its pool."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from pwd import getpwnam
from tempfile import TemporaryDirectory
from threading import Event
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.privileges import Access
from tests.support.proxy import eventually

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="PgBouncer is not installed: Debian's package pgbouncer has it"
)

_SETTINGS = """
[databases]
* = {server}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = trust
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {size}
query_wait_timeout = 20
server_login_retry = 1
ignore_startup_parameters = options
"""
_SHARED = (
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    *("idle_session_timeout", "datestyle", "timezone", "transaction_isolation"),
)


@contextmanager
def pgbouncer(access: Access, mode: str, size: int) -> Iterator[Access]:
    """Start one that pools `mode`, `size` sessions for each role; yields how to connect to it."""
    assert PROGRAM is not None
    server = conninfo_to_dict(access.owner)
    logins = [conninfo_to_dict(url) for url in astuple(access) if url]
    with TemporaryDirectory(prefix="docora-ops-tests-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "users").write_text(
            "".join(f'"{login["user"]}" "{login.get("password", "")}"\n' for login in logins)
        )
        where = " ".join(f"{name}={server[name]}" for name in ("host", "port") if name in server)
        settings = _SETTINGS.format(server=where, folder=folder, mode=mode, size=size)
        (folder / "ini").write_text(settings)
        user = None
        if os.geteuid() == 0:
            # Not root, and only its owner may enter the folder of a server's socket.
            socket_folder = Path(str(server.get("host")))
            is_there = socket_folder.is_dir()
            user = socket_folder.stat().st_uid if is_there else getpwnam("nobody").pw_uid
            for path in (folder, *folder.iterdir()):
                os.chown(path, user, -1)
        with subprocess.Popen(
            [PROGRAM, "--quiet", str(folder / "ini")], user=user, stderr=subprocess.DEVNULL
        ) as process:
            through = Access(*(_url(login, folder) for login in logins))
            try:
                eventually(lambda: _is_up(through.command), "a PgBouncer that takes connections")
                yield through
            finally:
                process.kill()


def _is_up(url: str) -> bool:
    with suppress(psycopg.OperationalError):
        psycopg.connect(url).close()
        return True
    return False


def _url(login: Mapping[str, object], folder: Path) -> str:
    user, password = quote(str(login["user"])), quote(str(login.get("password", "")))
    return f"postgresql://{user}:{password}@/{login['dbname']}?host={folder}&port=6432"


@dataclass
class Neighbours:
    """Other clients of the pool, each with one short transaction after the other.

    What they find set differently from one who connects directly is in `strange`.
    """

    access: Access
    pool: str  # how to connect to it, in the role of the commands, whose sessions they share then
    clients: int = 2
    strange: list[object] = field(default_factory=list)
    transactions: int = 0
    _ended: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        with psycopg.connect(self.access.command) as direct:
            self._usual = what_is_set(direct)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with ThreadPoolExecutor(self.clients) as threads:
            for _ in range(self.clients):
                threads.submit(self._work)
            try:
                eventually(lambda: self.transactions >= self.clients, "transactions of others")
                yield
            finally:
                self._ended.set()

    def _work(self) -> None:
        with psycopg.connect(self.pool, autocommit=True, prepare_threshold=None) as connection:
            while not self._ended.is_set():
                with connection.transaction():
                    self._look(connection)
                self.transactions += 1

    def look_everywhere(self, sessions: int) -> None:
        """Look at each session of the pool, of which nobody else may use one meanwhile."""
        connections = [psycopg.connect(self.pool) for _ in range(sessions)]
        for connection in connections:
            self._look(connection)
        for connection in connections:
            connection.close()

    def _look(self, connection: psycopg.Connection) -> None:
        found = what_is_set(connection)
        if found != self._usual:
            self.strange.append(found)


def what_is_set(connection: psycopg.Connection) -> object:
    shown = ", ".join(f"current_setting('{name}')" for name in _SHARED)
    locks = "pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    kept = [
        f"(SELECT count(*) FROM {each})" for each in ("pg_cursors", "pg_prepared_statements", locks)
    ]
    return connection.execute(f"SELECT {shown}, {', '.join(kept)}".encode()).fetchone()
