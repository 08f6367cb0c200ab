"""Servers for the tests: embedded ones, or those of TEST_DATABASE_URL and TEST_REDIS_URL."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from docora_ops.demo import servers
from tests.harness import Docora


def with_database(url: str, database: str) -> str:
    """The same server, another database."""
    parts = urlsplit(url)
    # urlunsplit drops the empty host of a URL that names a socket.
    return re.sub(r"^(\w+):/(?!/)", r"\1:///", urlunsplit(parts._replace(path=f"/{database}")))


@pytest.fixture(scope="session")
def worker_number(worker_id: str) -> int:
    """Which of the parallel test processes this is."""
    return int(worker_id.removeprefix("gw")) if worker_id != "master" else 0


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres on which databases can be created."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with servers.postgres(tmp_path_factory.mktemp("servers")) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            # The tests kill commands, never the server.
            for name in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {name} = off".encode())
            connection.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory, worker_number: int) -> Iterator[str]:
    """A Redis whose database is ours alone."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield f"{url.rstrip('/')}/{worker_number}"
        return
    with servers.valkey(tmp_path_factory.mktemp("servers")) as url:
        yield url


@pytest.fixture(scope="session")
def template(postgres_url: str, worker_number: int) -> str:
    """The name of a database with Docora's tables, to be cloned."""
    name = f"docora_template_{worker_number}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    with psycopg.connect(with_database(postgres_url, name), autocommit=True) as connection:
        connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())
    return name


@pytest.fixture
def database_url(postgres_url: str, template: str, worker_number: int) -> Iterator[str]:
    """A database of this test alone."""
    name = f"docora_{worker_number}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        yield with_database(postgres_url, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def docora(database_url: str, redis_url: str) -> Iterator[Docora]:
    """An empty Docora."""
    docora = Docora(database_url, redis_url)
    docora.redis.flushdb()
    yield docora
    docora.close()


@pytest.fixture
def repository_root() -> Path:
    """Where README and the package lie."""
    return Path(__file__).parent.parent
