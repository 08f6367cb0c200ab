"""A Docora to test on: rows, jobs, and the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast

import psycopg
import redis
from psycopg.rows import dict_row
from pydantic import SecretStr
from rq import Queue
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.utils import now

from docora_ops.actions import selecting, single
from docora_ops.actions.bulk import BulkRun
from docora_ops.actions.drift import find_drift
from docora_ops.actions.repair import Repair
from docora_ops.database import Database
from docora_ops.drift import DriftReport, RepairResult
from docora_ops.models import BulkResult, ChangeNote, LinkRef, LinkResult, Operation
from docora_ops.queue import LinkQueue, ProgressStore, connect
from docora_ops.settings import Settings
from tests.prescribed import Access
from tests.warm import WarmCommand, WarmProcess

COMMAND = Path(sys.executable).parent / "docora-ops"
QUEUE = "snapshot-queue"
REGISTRIES = (
    FailedJobRegistry,
    FinishedJobRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    ScheduledJobRegistry,
)
STARTERS = ("PATH", "LANG", "LC_", "PYTHON")
"""How the names of variables begin that act before the command does."""
GITHUB_TOKEN = "aa11:bb22:github-token-encrypted"
AUTH_KEY = "cc33:dd44:auth-key-encrypted"


Process = subprocess.Popen[str] | WarmProcess


@dataclass(frozen=True)
class Result:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def data(self) -> Any:
        """The document's `data`."""
        return self.json["data"]


@dataclass(frozen=True)
class TestLink:
    """The two ids of a link."""

    __test__ = False

    app_id: str
    repository_id: str

    @property
    def job_id(self) -> str:
        """The id of the link's job."""
        return f"{self.app_id}-{self.repository_id}"


@dataclass
class Docora:
    """One database and one Redis, empty at the start of each test.

    Commands and rooms reach them as README prescribes; what is done here, as their owner.
    """

    database_access: Access
    redis_access: Access
    warm: WarmCommand
    connection: psycopg.Connection[dict[str, Any]] = field(init=False)
    redis: redis.Redis = field(init=False)
    queue: Queue = field(init=False)
    _ids: count[int] = field(default_factory=lambda: count(1))
    _rooms: list[Rooms] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = psycopg.connect(
            self.database_access.owner, autocommit=True, row_factory=dict_row
        )
        self.redis = redis.Redis.from_url(self.redis_access.owner)
        self.queue = Queue(QUEUE, connection=self.redis)

    def close(self) -> None:
        for rooms in self._rooms:
            rooms.close()
        self.connection.close()
        self.redis.close()

    @property
    def database_url(self) -> str:
        """As commands connect."""
        return self.database_access.command

    @property
    def role(self) -> str:
        """Who that is."""
        return self.database_access.command_name

    @property
    def redis_url(self) -> str:
        """As commands connect."""
        return self.redis_access.command

    @property
    def settings(self) -> Settings:
        """For calling rooms directly."""
        return Settings(
            database_url=SecretStr(self.database_url), redis_url=SecretStr(self.redis_url)
        )

    def rooms(self, **settings: Any) -> Rooms:
        """Our own rooms, open until this Docora is closed."""
        rooms = Rooms(self.settings.model_copy(update=settings))
        self._rooms.append(rooms)
        return rooms

    # Rows

    def add_app(self, name: str = "Acme Search", app_id: str | None = None) -> str:
        app_id = app_id or f"app_{next(self._ids):024x}"
        self.connection.execute(
            "INSERT INTO apps (app_id, token_hash, app_name, base_url, email,"
            " client_auth_key_encrypted) VALUES (%s, 'hash', %s, %s, 'ops@acme.example', %s)",
            (app_id, name, "https://acme.example/docora", AUTH_KEY),
        )
        return app_id

    def add_repository(
        self,
        full_name: str = "octo/api",
        repository_id: str | None = None,
        *,
        url: str | None = None,
        circuit_open_for: timedelta | None = None,
    ) -> str:
        number = next(self._ids)
        repository_id = repository_id or f"repo_{number:024x}"
        owner, _, name = full_name.partition("/")
        self.connection.execute(
            "INSERT INTO repositories (repository_id, github_url, owner, name,"
            " consecutive_failures, circuit_open_until)"
            " VALUES (%s, %s, %s, %s, %s, now() + %s)",
            (
                repository_id,
                url or f"https://github.com/{full_name}-{number}",
                owner,
                name,
                5 if circuit_open_for else 0,
                circuit_open_for,
            ),
        )
        return repository_id

    def link(
        self,
        app_id: str,
        repository_id: str,
        status: str = "failed",
        *,
        retry_count: int = 5,
        last_error: str | None = "HTTP 500 on created README.md",
        scanned: timedelta | None = None,
    ) -> TestLink:
        """`scanned`: how long ago, if ever."""
        self.connection.execute(
            "INSERT INTO app_repositories (app_id, repository_id, status, retry_count,"
            " last_error, github_token_encrypted, last_scanned_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, now() - %s::interval)",
            (app_id, repository_id, status, retry_count, last_error, GITHUB_TOKEN, scanned),
        )
        return TestLink(app_id, repository_id)

    def add_link(self, status: str = "failed", **options: Any) -> TestLink:
        """A link of a new app to a new repository."""
        number = next(self._ids)
        app_id = self.add_app(f"App {number}")
        return self.link(app_id, self.add_repository(f"octo/repo{number}"), status, **options)

    def add_links(
        self, amount: int, *, apps: int = 1, last_error: str = "HTTP 500", status: str = "failed"
    ) -> None:
        """Many links that have never been scanned, of apps `App 1`, `App 2`, …"""
        for number in range(1, apps + 1):
            self.add_app(f"App {number}", f"app_{number:024x}")
        self.connection.execute(
            "INSERT INTO repositories (repository_id, github_url, owner, name)"
            " SELECT 'repo_' || lpad(to_hex(i), 24, '0'), 'https://github.com/octo/repo' || i,"
            " 'octo', 'repo' || i FROM generate_series(1, %s) i",
            (-(-amount // apps),),
        )
        self.connection.execute(
            "INSERT INTO app_repositories (app_id, repository_id, status, retry_count,"
            " last_error, github_token_encrypted)"
            " SELECT app_id, repository_id, %s, 5, %s, %s FROM apps, repositories"
            " ORDER BY repository_id, app_id LIMIT %s",
            (status, last_error, GITHUB_TOKEN, amount),
        )

    def add_deliveries(self, link: TestLink, files: int) -> None:
        self.connection.execute(
            "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
            " SELECT %s, %s, 'src/file' || i, repeat('a', 64) FROM generate_series(1, %s) i",
            (link.app_id, link.repository_id, files),
        )

    def row(self, link: TestLink) -> dict[str, Any]:
        row = self.connection.execute(
            "SELECT * FROM app_repositories WHERE app_id = %s AND repository_id = %s",
            (link.app_id, link.repository_id),
        ).fetchone()
        assert row is not None
        return row

    def status(self, link: TestLink) -> str:
        return str(self.row(link)["status"])

    def statuses(self) -> dict[str, int]:
        rows = self.connection.execute(
            "SELECT status, count(*) AS links FROM app_repositories GROUP BY status"
        ).fetchall()
        return {row["status"]: row["links"] for row in rows}

    def links(self) -> list[TestLink]:
        """All links in the order of a bulk operation."""
        rows = self.connection.execute("SELECT app_id, repository_id FROM app_repositories")
        return sorted(
            (TestLink(**row) for row in rows), key=lambda link: (link.app_id, link.repository_id)
        )

    def deliveries(self, link: TestLink) -> int:
        row = self.connection.execute(
            "SELECT count(*) AS files FROM app_delivered_files"
            " WHERE app_id = %s AND repository_id = %s",
            (link.app_id, link.repository_id),
        ).fetchone()
        assert row is not None
        return int(row["files"])

    def age_links(self) -> None:
        """All links so far were made an hour ago."""
        self.connection.execute(
            "UPDATE app_repositories SET created_at = now() - interval '1 hour'"
        )

    def delete_link(self, link: TestLink) -> None:
        self.connection.execute(
            "DELETE FROM app_repositories WHERE app_id = %s AND repository_id = %s",
            (link.app_id, link.repository_id),
        )

    def was_reset(self, link: TestLink) -> bool:
        row = self.row(link)
        return (row["status"], row["retry_count"], row["last_error"]) == (
            "pending_snapshot",
            0,
            None,
        )

    # Jobs

    def waiting(self) -> list[str]:
        """The ids in the queue's list, from its head."""
        ids = cast("list[bytes]", self.redis.lrange(self.queue.key, 0, -1))
        return [job_id.decode() for job_id in ids]

    def job(self, link: TestLink) -> Job:
        return Job.fetch(link.job_id, connection=self.redis)

    def job_hash(self, job_id: str) -> dict[str, bytes]:
        """The job's fields, undecoded."""
        fields = cast("dict[bytes, bytes]", self.redis.hgetall(Job.key_for(job_id)))
        return {name.decode(): value for name, value in fields.items()}

    def registries(self, job_id: str) -> set[str]:
        """Names of the registry keys in which the job stands, wip included."""
        found = {
            registry(QUEUE, connection=self.redis).key
            for registry in REGISTRIES
            if self.redis.zscore(registry(QUEUE, connection=self.redis).key, job_id) is not None
        }
        wip = StartedJobRegistry(QUEUE, connection=self.redis).key
        members = cast("list[bytes]", self.redis.zrange(wip, 0, -1))
        if any(member.decode().split(":")[0] == job_id for member in members):
            found.add(wip)
        return found

    def enqueue(self, job_id: str, **options: Any) -> Job:
        """A plain enqueue, as another producer does it."""
        return self.queue.enqueue("other.producer", job_id=job_id, description="other", **options)

    def leave_job(self, job_id: str, status: JobStatus) -> Job:
        """A job that is in no list, with this status and where RQ records that."""
        job = self.enqueue(job_id)
        self.redis.lrem(self.queue.key, 0, job_id)
        job.set_status(status)
        registry = {
            JobStatus.FAILED: FailedJobRegistry,
            JobStatus.STOPPED: FailedJobRegistry,
            JobStatus.FINISHED: FinishedJobRegistry,
            JobStatus.CANCELED: CanceledJobRegistry,
            JobStatus.DEFERRED: DeferredJobRegistry,
        }.get(status)
        if registry is not None:
            self.redis.zadd(
                registry(QUEUE, connection=self.redis).key, {job_id: now().timestamp() + 3600}
            )
        return job

    def queue_job(self, link: TestLink) -> Job:
        """A job of ours that waits for the link, which is pending then."""
        self.connection.execute(
            "UPDATE app_repositories SET status = 'failed'"
            " WHERE app_id = %s AND repository_id = %s",
            (link.app_id, link.repository_id),
        )
        self.rooms().retry(link)
        return self.job(link)

    def schedule_job(self, job_id: str, when: datetime | None = None) -> Job:
        job: Job = self.queue.enqueue_at(
            when or now() + timedelta(hours=1), "other.producer", job_id=job_id
        )
        return job

    def start_job(self, job_id: str, *, heartbeat: float = 90) -> Execution:
        """A job that a worker has begun; a negative heartbeat has expired so many seconds ago."""
        job = self.leave_job(job_id, JobStatus.STARTED)
        with self.redis.pipeline() as pipeline:
            execution = Execution.create(job, 90, pipeline, worker_name="worker-1")
            pipeline.execute()
        if heartbeat < 0:
            wip = job.started_job_registry.key
            self.redis.zadd(wip, {execution.composite_key: now().timestamp() + heartbeat})
            self.redis.delete(execution.key, job.execution_registry.key)
        return execution

    def hold_lock(self, job_id: str) -> None:
        """What a worker holds for as long as it runs the job."""
        self.connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (job_id,))

    def add_worker(self, name: str = "worker-1") -> None:
        """What RQ records of a worker that listens on the queue."""
        key = f"rq:worker:{name}"
        self.redis.hset(key, "birth", "now")
        self.redis.sadd("rq:workers", key)
        self.redis.sadd(f"rq:workers:{QUEUE}", key)

    def dump(self) -> tuple[dict[str, Any], dict[bytes, object]]:
        """Both stores, byte for byte, and which keys have an end."""
        tables = {
            table: self.connection.execute(
                f"SELECT xmin::text, ctid::text, * FROM {table} ORDER BY 3".encode()
            ).fetchall()
            for table in (
                *("apps", "repositories", "app_repositories", "app_delivered_files"),
                *("repository_snapshots", "snapshot_files"),
            )
        }
        keys = sorted(cast("list[bytes]", self.redis.keys()))
        return tables, {key: (self._content(key), self.redis.ttl(key) >= 0) for key in keys}

    def _content(self, key: bytes) -> object:
        # A hash table that grows changes its order by itself.
        if self.redis.type(key) == b"hash":
            return self.redis.hgetall(key)
        return self.redis.dump(key)

    def audit_trail(self, stream: str = "docora-ops:audit") -> list[dict[str, str]]:
        """The entries of a stream, the oldest first."""
        found = cast("list[tuple[bytes, dict[bytes, bytes]]]", self.redis.xrange(stream))
        return [
            {name.decode(): value.decode() for name, value in fields.items()} for _, fields in found
        ]

    # Invariants

    def lost_links(self) -> list[str]:
        """Links that are pending, yet have no live job."""
        rows = self.connection.execute(
            "SELECT app_id || '-' || repository_id AS job_id FROM app_repositories"
            " WHERE status = 'pending_snapshot'"
        ).fetchall()
        waiting = set(self.waiting())
        return [
            row["job_id"]
            for row in rows
            if row["job_id"] not in waiting or not self.redis.exists(Job.key_for(row["job_id"]))
        ]

    def doubled_jobs(self) -> list[str]:
        """Ids that stand more than once in the queue's list."""
        waiting = self.waiting()
        return (
            sorted({job_id for job_id in waiting if waiting.count(job_id) > 1})
            if len(set(waiting)) != len(waiting)
            else []
        )

    def assert_sound(self) -> None:
        assert self.lost_links() == []
        assert self.doubled_jobs() == []

    # The command

    def environment(self, **changes: str | None) -> dict[str, str]:
        """The environment for a command; None takes a variable away."""
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
        environment: dict[str, str | None] = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            **changes,
        }
        return {name: value for name, value in environment.items() if value is not None}

    def start(self, *arguments: str, env: Mapping[str, str | None] | None = None) -> WarmProcess:
        """The command, running, its streams in pipes."""
        return self.warm.start(arguments, self.environment(**(env or {})))

    def start_installed(
        self, *arguments: str, env: Mapping[str, str | None] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """The installed command, started by the system."""
        return subprocess.Popen(
            [str(COMMAND), *arguments],
            env=self.environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            **options,
        )

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str | None] | None = None,
        timeout: float = 60,
        **options: Any,
    ) -> Result:
        """The command, to its end, its streams in pipes.

        The installed one where the test says how it is to be started.
        """
        if options or any(name.startswith(STARTERS) for name in env or {}):
            with self.start_installed(*arguments, env=env, **options) as process:
                return finish(process, timeout)
        with self.start(*arguments, env=env) as process:
            return finish(process, timeout)

    def run_together(
        self, *commands: Sequence[str], env: Mapping[str, str | None] | None = None
    ) -> list[Result]:
        """Several commands at the same time; returns when all have ended."""
        with ThreadPoolExecutor(len(commands)) as threads:
            return list(threads.map(lambda arguments: self.run(*arguments, env=env), commands))


class Rooms:
    """The functions of docora-ops on connections of their own, without a command around them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = connect(settings)
        self.database = Database(settings)
        self.queue = LinkQueue(settings, self.redis)
        self.store = ProgressStore(settings, self.redis)

    def close(self) -> None:
        self.database.close()
        self.redis.close()

    def ref(self, link: TestLink) -> LinkRef:
        row = self.database.row(
            "SELECT id::text FROM app_repositories"
            " WHERE app_id = %(app_id)s AND repository_id = %(repository_id)s",
            {"app_id": link.app_id, "repository_id": link.repository_id},
        )
        assert row is not None
        return LinkRef(row[0], link.app_id, link.repository_id)

    def retry(self, link: TestLink, **options: Any) -> LinkResult:
        return single.retry(self.database, self.queue, self.ref(link), **options)

    def resync(self, link: TestLink, **options: Any) -> LinkResult:
        return single.resync(self.database, self.queue, self.ref(link), **options)

    def retry_all(
        self,
        *,
        batch_size: int = 500,
        dry_run: bool = False,
        note: ChangeNote | None = None,
        prepare: Callable[[BulkRun], object] = lambda run: None,
        **choice: Any,
    ) -> BulkResult:
        """A bulk retry; `prepare` gets the run when its operation is known and no link is done."""
        with selecting.failed_links(self.database, **choice) as selection:
            run = BulkRun(
                Operation.RETRY,
                self.database,
                self.queue,
                self.store,
                selection,
                batch_size,
                note,
            )
            return self._finish(run, prepare, dry_run=dry_run)

    def resync_all(
        self,
        app_id: str,
        *,
        batch_size: int = 50,
        dry_run: bool = False,
        prepare: Callable[[BulkRun], object] = lambda run: None,
    ) -> BulkResult:
        with selecting.links_of_app(self.database, app_id) as (_, selection, _):
            run = BulkRun(
                Operation.RESYNC, self.database, self.queue, self.store, selection, batch_size
            )
            return self._finish(run, prepare, dry_run=dry_run)

    def schedule(
        self,
        *,
        batch_size: int = 500,
        dry_run: bool = False,
        note: ChangeNote | None = None,
        prepare: Callable[[BulkRun], object] = lambda run: None,
    ) -> BulkResult:
        """A pass of the schedule; `prepare` gets the run when its links are chosen."""
        interval = self.settings.rescan_interval_ms
        with selecting.due_links(self.database, interval) as selection:
            run = BulkRun(
                Operation.SCHEDULE,
                self.database,
                self.queue,
                self.store,
                selection,
                batch_size,
                note,
            )
            return self._finish(run, prepare, dry_run=dry_run)

    def drift(self) -> DriftReport:
        return find_drift(self.database, self.queue, grace_seconds=0)

    def repair(
        self,
        *,
        dry_run: bool = False,
        prepare: Callable[[Repair], object] = lambda repair: None,
        **scope: Any,
    ) -> RepairResult:
        """A repair without grace; `prepare` gets it when all is found and nothing mended."""
        repair = Repair(self.database, self.queue, self.store, grace_seconds=0, **scope)
        repair.find()
        prepare(repair)
        return repair.plan() if dry_run else repair.run()

    def _finish(
        self, run: BulkRun, prepare: Callable[[BulkRun], object], *, dry_run: bool
    ) -> BulkResult:
        if dry_run:
            prepare(run)
            return run.plan()
        if run.operation is not Operation.SCHEDULE:
            run.start()
        prepare(run)
        return run.run()


def finish(process: Process, timeout: float = 60) -> Result:
    """Wait for a command to end."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Result(process.wait(), stdout, stderr)


def on_terminal(
    docora: Docora,
    arguments: Sequence[str],
    *,
    answers: str = "",
    columns: int = 100,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 60,
) -> tuple[int, str]:
    """Run the installed command on a pseudo-terminal; returns its exit code and what it showed.

    `answers` is typed as soon as the command asks something (`[y/N]`).
    """
    import fcntl
    import pty
    import select
    import struct
    import termios
    import time

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [str(COMMAND), *arguments],
        env=docora.environment(**{"TERM": "xterm-256color", **(env or {})}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    piece = os.read(master, 65536)
                except OSError:  # Linux's way to say that the other side is closed
                    break
                if not piece:
                    break
                shown += piece
                if answers and b"[y/N]" in shown:
                    os.write(master, answers.encode())
                    answers = ""
        return process.wait(timeout=5), shown.decode("utf-8", "replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)
