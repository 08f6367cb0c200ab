"""A PgBouncer that a test puts between commands and a Postgres."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from psycopg.conninfo import conninfo_to_dict

from tests.prescribed import Access
from tests.proxy import eventually, refused_port, with_address

# Debian installs it where only root's PATH leads.
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
"""Path of the installed PgBouncer, if there is one."""

_CONFIGURATION = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {pool_mode}
default_pool_size = {pool_size}
query_wait_timeout = 20
server_login_retry = 1
"""


class PoolMode(StrEnum):
    """When PgBouncer gives a server connection to another client."""

    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"


@contextmanager
def pgbouncer(
    access: Access, pool_mode: PoolMode = PoolMode.TRANSACTION, pool_size: int = 2
) -> Iterator[Access]:
    """Starts a PgBouncer before a Postgres; yields the same URLs by way of it.

    Each role has a pool of `pool_size` server connections of its own.
    """
    assert PROGRAM is not None, "PgBouncer is not installed"
    server = conninfo_to_dict(access.owner)
    host = str(server.get("host") or "/var/run/postgresql")
    with TemporaryDirectory(prefix="docora-ops-pgbouncer-") as folder:
        users, config = Path(folder, "users.txt"), Path(folder, "pgbouncer.ini")
        log = Path(folder, "log")
        listen_port = refused_port()
        users.write_text("".join(sorted(map(_login, astuple(access)))), encoding="utf-8")
        config.write_text(
            _CONFIGURATION.format(
                host=host,
                port=server.get("port") or 5432,
                listen_port=listen_port,
                users=users,
                pool_mode=pool_mode,
                pool_size=pool_size,
            ),
            encoding="utf-8",
        )
        command = [PROGRAM, str(config)]
        if os.geteuid() == 0:  # as which PgBouncer refuses to run
            user = _user_for(host)
            command += ["-u", user]
            for path in (folder, users, config):
                shutil.chown(path, user)
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr)
        try:
            eventually(lambda: _is_up(process, listen_port, log), "a PgBouncer")
            yield Access(*(with_address(url, listen_port) for url in astuple(access)))
        finally:
            process.kill()
            process.wait()


def _login(url: str) -> str:
    """Returns the line of PgBouncer's file of users for the user of this URL."""
    login = conninfo_to_dict(url)
    user, password = (str(login.get(name) or "") for name in ("user", "password"))
    return '"{}" "{}"\n'.format(*(each.replace('"', '""') for each in (user, password)))


def _user_for(host: str) -> str:
    """Returns a user other than root who may connect to this host or folder of sockets."""
    owner = Path(host).owner() if host.startswith("/") else "root"
    return "nobody" if owner == "root" else owner


def _is_up(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
