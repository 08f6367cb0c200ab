"""Servers for the tests: embedded ones, or those of TEST_DATABASE_URL and TEST_REDIS_URL."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
from hypothesis import configuration, settings

from tests import servers
from tests.harness import Docora
from tests.pgbouncer import pgbouncer
from tests.prescribed import (
    Access,
    create_roles,
    create_users,
    denials,
    drop_roles,
    drop_users,
    role_access,
    user_access,
)
from tests.warm import WarmCommand

# Jobs that run in a test's own process would ask it for the apps of the test.
for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[variable]

# Under nohup all that the tests start would ignore it; a handler is not inherited, SIG_IGN is.
signal.signal(signal.SIGHUP, lambda *_: None)
# Beside pytest's own cache, instead of in a folder more.
configuration.set_hypothesis_home_dir(Path(__file__).parents[1] / ".pytest_cache" / "hypothesis")
# For pytest --hypothesis-profile=long: what searches for an hour rather than for seconds.
settings.register_profile(
    "long", max_examples=500, stateful_step_count=50, deadline=None, print_blob=True
)


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
def server_directory() -> Iterator[Path]:
    """Not below pytest's folder, which each run of pytest closes to other users again."""
    with TemporaryDirectory(prefix="docora-ops-tests-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres_url(server_directory: Path) -> Iterator[str]:
    """A Postgres on which databases can be created."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with servers.postgres(server_directory) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            # The tests kill commands, never the server; and what it gathers of the tables of one
            # test would be wrong for the next.
            for name in ("fsync", "full_page_writes", "autovacuum"):
                connection.execute(f"ALTER SYSTEM SET {name} = off".encode())
            connection.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def redis_url(server_directory: Path, worker_number: int) -> Iterator[str]:
    """A Redis whose database is ours alone."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield f"{url.rstrip('/')}/{worker_number}"
        return
    with servers.valkey(server_directory) as url:
        yield url


@pytest.fixture(scope="session")
def redis_access(redis_url: str, worker_number: int) -> Iterator[Access]:
    """The same, with the users of README."""
    with redis.Redis.from_url(redis_url) as admin:
        create_users(admin, worker_number)
        yield user_access(redis_url, worker_number)
        drop_users(admin, worker_number)


# Who may do what with which table, and what happens then.
_SCHEMA = """
SELECT array_agg(shape ORDER BY shape) FROM (
    SELECT concat_ws(' ', c.relname, c.relacl, a.attname, a.attacl, t.tgname, t.tgenabled) AS shape
    FROM pg_class c
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal
    WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat(nspacl) FROM pg_namespace WHERE nspname = 'public'
) AS shapes
"""

_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

_EMPTY = """
DELETE FROM app_delivered_files;
DELETE FROM app_repositories;
DELETE FROM repository_snapshots;
DELETE FROM repositories;
DELETE FROM apps;
"""


class TestDatabase:
    """A database with Docora's tables, emptied for each test, made anew where a test changed it.

    README's roles have their grants in it.
    """

    __test__ = False

    def __init__(self, server_url: str, number: int) -> None:
        self.server_url = server_url
        self.name = f"docora_{number}"
        self.url = with_database(server_url, self.name)
        self.access = role_access(self.url, number)
        self._number = number
        self._schema: object = None
        self._session = ExitStack()
        self._connection: psycopg.Connection

    def prepare(self) -> None:
        """Whatever the test before did and left running."""
        if self._schema is None:
            self._create()
            return
        try:
            is_as_made = self._end_sessions_and_compare()
        except psycopg.OperationalError:  # a test has ended our session, too
            self._connect()
            is_as_made = self._end_sessions_and_compare()
        if is_as_made:
            self._connection.execute(_EMPTY)
        else:
            self._create()

    def _end_sessions_and_compare(self) -> bool:
        """Whether nobody has changed the tables; nobody but us is there any more."""
        # Postgres itself would look whether they have ended only each tenth of a second.
        while self._connection.execute(_END_SESSIONS).fetchall():
            time.sleep(0.001)
        return self._connection.execute(_SCHEMA).fetchone() == self._schema

    def _connect(self) -> None:
        """In one session for all tests: a new one has to read the catalogues anew."""
        self.close()
        self._connection = self._session.enter_context(psycopg.connect(self.url, autocommit=True))

    def close(self) -> None:
        """Our own session."""
        self._session.close()

    def _create(self) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            self.drop(connection)
            connection.execute(f"CREATE DATABASE {self.name}".encode())
        self._connect()
        self._connection.execute(files("docora_ops.demo").joinpath("schema.sql").read_bytes())
        create_roles(self._connection, self._number)
        self._schema = self._connection.execute(_SCHEMA).fetchone()

    def drop(self, connection: psycopg.Connection) -> None:
        """Remove it, and the roles."""
        connection.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)".encode())
        drop_roles(connection, self._number)


@pytest.fixture(scope="session")
def database(postgres_url: str, worker_number: int) -> Iterator[TestDatabase]:
    """The database of this test process."""
    database = TestDatabase(postgres_url, worker_number)
    yield database
    database.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        database.drop(connection)


@pytest.fixture(scope="session")
def access(database: TestDatabase) -> Iterator[Access]:
    """How to connect to it; for commands with TEST_POOL_MODE through a PgBouncer."""
    if mode := os.environ.get("TEST_POOL_MODE"):
        database.prepare()
        with pgbouncer(database.access, mode, 20) as pooled:
            yield replace(database.access, command=pooled.command)
    else:
        yield database.access


@pytest.fixture
def database_access(database: TestDatabase, access: Access) -> Access:
    """An empty database."""
    database.prepare()
    return access


@pytest.fixture(scope="session")
def warm(server_directory: Path) -> Iterator[WarmCommand]:
    """The command, ready to run."""
    warm = WarmCommand(server_directory)
    yield warm
    warm.close()


@pytest.fixture
def docora(
    database_access: Access, redis_access: Access, warm: WarmCommand, worker_number: int
) -> Iterator[Docora]:
    """An empty Docora."""
    docora = Docora(database_access, redis_access, warm)
    docora.redis.flushdb()
    docora.redis.acl_log_reset()
    yield docora
    denied = denials(docora.redis, worker_number)
    docora.close()
    assert denied == []


@pytest.fixture
def repository_root() -> Path:
    """Where README and the package lie."""
    return Path(__file__).parent.parent


@pytest.fixture
def readme(repository_root: Path) -> str:
    return (repository_root / "README.md").read_text(encoding="utf-8")
