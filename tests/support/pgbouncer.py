"""A PgBouncer between the command and Postgres."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pwd import getpwnam
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

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
pool_mode = transaction
default_pool_size = {size}
query_wait_timeout = 20
server_login_retry = 1
ignore_startup_parameters = options
"""


@contextmanager
def pgbouncer(url: str, size: int = 5) -> Iterator[str]:
    """Starts one that pools transactions in `size` sessions; yields the URL through it."""
    assert PROGRAM is not None
    server = conninfo_to_dict(url)
    with TemporaryDirectory(prefix="docora-ops-tests-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "users").write_text(f'"{server["user"]}" "{server.get("password", "")}"\n')
        where = " ".join(f"{name}={server[name]}" for name in ("host", "port") if name in server)
        (folder / "ini").write_text(_SETTINGS.format(server=where, folder=folder, size=size))
        user = None
        if os.geteuid() == 0:
            # Not root, and only its owner may enter the folder of a server's socket.
            socket_folder = Path(str(server.get("host")))
            is_there = socket_folder.is_dir()
            user = socket_folder.stat().st_uid if is_there else getpwnam("nobody").pw_uid
            for path in (folder, *folder.iterdir()):
                os.chown(path, user, -1)
        pooled = f"postgresql://{server['user']}@/{server['dbname']}?host={folder}&port=6432"
        with subprocess.Popen(
            [PROGRAM, "--quiet", str(folder / "ini")], user=user, stderr=subprocess.DEVNULL
        ) as process:
            try:
                eventually(lambda: _is_up(pooled), "a PgBouncer that takes connections")
                yield pooled
            finally:
                process.kill()


def _is_up(url: str) -> bool:
    with suppress(psycopg.OperationalError):
        psycopg.connect(url).close()
        return True
    return False
