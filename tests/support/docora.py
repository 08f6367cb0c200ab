"""A Docora to test on: rows, jobs, and the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from signal import Signals
from typing import Any, Self, cast

import psycopg
import redis
from rq import Queue
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.utils import now

from docora_ops.actions.docora import Docora as ActionsDocora
from docora_ops.settings import Settings
from tests.support.fork_server import ForkedProcess, ForkServer
from tests.support.proxy import patience
from tests.support.rows import Rows, TestLink

COMMAND = Path(sys.executable).parent / "docora-ops"
QUEUE = "snapshot-queue"
WIP = f"rq:wip:{QUEUE}"
INTERMEDIATE = f"rq:queue:{QUEUE}:intermediate"
# Where RQ records jobs that are in no list.
REGISTRIES = ("failed", "finished", "canceled", "deferred", "scheduled", "wip")
_READ: dict[bytes, Callable[[Any, bytes], object]] = {
    b"hash": lambda client, key: client.hgetall(key),
    b"list": lambda client, key: client.lrange(key, 0, -1),
    b"set": lambda client, key: client.smembers(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    b"none": lambda client, key: client.get(key),  # a worker has just removed it
    b"string": lambda client, key: client.get(key),
}

Process = subprocess.Popen[str] | ForkedProcess
Env = Mapping[str, str | None] | None


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def data(self) -> Any:
        return self.json["data"]

    def ended(self, code: int, error: str | None = None, says: str = "") -> Self:
        """Itself, if it ended so: exit code, code of the error in its document, words on stderr."""
        assert self.code == code, self
        assert error is None or self.json["code"] == error, self
        assert says in self.stderr, self
        return self


@dataclass
class Docora(Rows):
    """One database and one Redis, empty at the start of each test."""

    database_url: str
    redis_url: str
    fork_server: ForkServer
    connection: psycopg.Connection[dict[str, Any]]
    redis: redis.Redis = field(init=False)
    queue: Queue = field(init=False)
    _ids: count[int] = field(default_factory=lambda: count(1))
    _started: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A test that waits for itself fails, instead of never ending.
        self.connection.execute("SET lock_timeout = '60s'")
        self.redis = redis.Redis.from_url(self.redis_url)
        self.queue = Queue(QUEUE, connection=self.redis)

    def close(self) -> None:
        for process in self._started:  # none may meet the next test, as after a failed assertion
            with process:
                process.kill()
        self.redis.close()

    @property
    def settings(self) -> Settings:
        servers = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}
        return Settings.model_validate(servers | {"DOCORA_OPS_BACKEND": "rq"})

    def actions(self) -> ActionsDocora:
        """The first argument of each action. Use it in a `with` block."""
        return ActionsDocora(self.settings)

    def waiting(self) -> list[str]:
        ids: Any = self.redis.lrange(self.queue.key, 0, -1)
        return [job_id.decode() for job_id in ids]

    def job(self, link: TestLink) -> Job:
        return Job.fetch(link.job_id, connection=self.redis)

    def registries(self, job_id: str) -> set[str]:
        jobs: Any = {name: self.redis.zrange(f"rq:{name}:{QUEUE}", 0, -1) for name in REGISTRIES}
        return {name for name in REGISTRIES if job_id in map(_job_id, jobs[name])}

    def enqueue(self, job_id: str, **options: Any) -> Job:
        return self.queue.enqueue("other.producer", job_id=job_id, description="other", **options)

    def leave_job(self, job_id: str, status: JobStatus) -> Job:
        """A job that is in no list, with this status and where RQ records that."""
        job = self.enqueue(job_id)
        self.redis.lrem(self.queue.key, 0, job_id)
        job.set_status(status)
        name = "failed" if status is JobStatus.STOPPED else status.value
        if name in REGISTRIES:
            self.redis.zadd(f"rq:{name}:{QUEUE}", {job_id: now().timestamp() + 3600})
        return job

    def queue_job(self, link: TestLink) -> Job:
        """The link's own job waits, and the link is pending."""
        from docora_ops.actions.changes import change_batch
        from docora_ops.links import Change, LinkFilter

        self.set_link(link, status="failed")
        with self.actions() as docora:
            change_batch(docora, Change.retry(LinkFilter()), [str(self.row(link)["id"])])
        return self.job(link)

    def schedule_job(self, job_id: str) -> Job:
        when = now() + timedelta(hours=1)
        job: Job = self.queue.enqueue_at(when, "other.producer", job_id=job_id)
        return job

    def start_job(
        self, job_id: str, worker: str = "worker-1", *, is_abandoned: bool = False
    ) -> None:
        """A job that a worker has begun; that of a killed one has expired."""
        job = self.leave_job(job_id, JobStatus.STARTED)
        with self.redis.pipeline() as pipeline:
            execution = Execution.create(job, 90, pipeline, worker_name=worker)
            pipeline.execute()
        if is_abandoned:
            self.redis.zadd(WIP, {execution.composite_key: now().timestamp() - 10})
            self.redis.delete(execution.key, job.execution_registry.key)

    def add_worker(self, name: str = "worker-1") -> None:
        key = f"rq:worker:{name}"
        self.redis.hset(key, "birth", "now")
        self.redis.sadd("rq:workers", key)
        self.redis.sadd(f"rq:workers:{QUEUE}", key)

    def dump(self) -> tuple[dict[str, Any], dict[bytes, object]]:
        """All rows with their places, and all keys: what a command that only reads leaves alone."""
        execute = self.connection.execute
        names = ("apps", "repositories", "app_repositories", "app_delivered_files")
        tables = {
            table: execute(f"SELECT xmin::text, ctid::text, * FROM {table} ORDER BY 3").fetchall()
            for table in (*names, "repository_snapshots", "snapshot_files")
        }
        keys: Any = sorted(cast("list[bytes]", self.redis.keys()))
        expire = [self.redis.ttl(key) >= 0 for key in keys]
        with self.redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.type(key)
            for key, kind in zip(keys, pipeline.execute(), strict=True):
                _READ[kind](pipeline, key)
            read = zip(keys, pipeline.execute(), expire, strict=True)
        return tables, {key: (content, does) for key, content, does in read if content is not None}

    def sessions(self, condition: str) -> int:
        """Counts the connections of commands and jobs to Postgres that fulfil an SQL condition."""
        ours = "datname = current_database() AND application_name = 'docora-ops'"
        return int(self.one(f"SELECT count(*) FROM pg_stat_activity WHERE {ours} AND {condition}"))

    def live_jobs(self) -> set[str]:
        """Those that wait, are delayed, have just been taken, or run."""
        with self.redis.pipeline() as pipeline:
            for key in (self.queue.key, INTERMEDIATE):
                pipeline.lrange(key, 0, -1)
            for name in ("scheduled", "deferred", "wip"):
                pipeline.zrange(f"rq:{name}:{QUEUE}", 0, -1)
            return {_job_id(member) for members in pipeline.execute() for member in members}

    def doubled_jobs(self) -> list[str]:
        """Those that wait twice, or run and wait."""
        with self.redis.pipeline() as pipeline:
            pipeline.lrange(self.queue.key, 0, -1)
            pipeline.zrange(WIP, 0, -1)
            waiting, running = pipeline.execute()
        times = Counter(map(_job_id, [*waiting, *running]))
        return sorted(job_id for job_id in times if times[job_id] > 1)

    def assert_sound(self) -> None:
        """No pending link is without a live job, also while workers run; no job is doubled."""
        before, live = self._pending(), self.live_jobs()
        jobs = {id_ for id_ in before & live if self.redis.exists(Job.key_for(id_))}
        lost = (before - jobs) & self._pending()
        assert not lost, sorted(lost)[:9]
        assert not self.doubled_jobs(), self.doubled_jobs()

    def _pending(self) -> set[str]:
        job_id = "app_id || '-' || repository_id AS job_id"
        query = f"SELECT {job_id} FROM app_repositories WHERE status = 'pending_snapshot'"
        return {row["job_id"] for row in self.connection.execute(query.encode())}

    def environment(self, **changes: str | None) -> dict[str, str]:
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
        environment: dict[str, str | None] = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "DOCORA_OPS_BACKEND": "rq",
            **changes,
        }
        return {name: value for name, value in environment.items() if value is not None}

    def start(self, *arguments: str, env: Env = None) -> ForkedProcess:
        process = self.fork_server.start(arguments, self.environment(**(env or {})))
        self._started.append(process)
        return process

    def start_installed(
        self, *arguments: str, env: Env = None, **options: Any
    ) -> subprocess.Popen[str]:
        return self.start_program(str(COMMAND), *arguments, env=env, **options)

    def start_program(
        self, *command: str, env: Env = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Any program with the environment of a command, in a session without a terminal."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options = {"start_new_session": True, "stdin": subprocess.DEVNULL, **streams, **options}
        environment = self.environment(**(env or {}))
        process = subprocess.Popen(command, env=environment, encoding="utf-8", **options)
        self._started.append(process)
        return process

    def run(self, *arguments: str, env: Env = None, **options: Any) -> Result:
        """Runs a command to its end. With `options` of Popen: the installed one, not a fork."""
        if options:
            return finish(self.start_installed(*arguments, env=env, **options))
        return finish(self.start(*arguments, env=env))

    def run_together(self, *commands: Sequence[str], env: Env = None) -> list[Result]:
        with ThreadPoolExecutor(len(commands)) as threads:
            return list(threads.map(lambda arguments: self.run(*arguments, env=env), commands))


def _job_id(member: bytes) -> str:
    """Without the id of its execution, which follows the id of a running job."""
    return member.decode().partition(":")[0]


def finish(process: Process, number: Signals | None = None) -> Result:
    """Waits for its end, which this signal asks for."""
    if number:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=2 * patience())
    return Result(process.wait(), stdout, stderr)
