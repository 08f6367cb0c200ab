"""Docora's own queue, by the official `bullmq` package: jobs in every state, and a real worker."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Event, Lock, Thread
from typing import Any, cast

import psycopg

from tests.support.docora import QUEUE, Docora, Result
from tests.support.proxy import eventually, patience
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink

# What Docora's package for Node writes, and the one for Python does not: the version in the queue's
# metadata, and the encoded name of a worker's connection.
VERSION = "bullmq:5.66.4"
WORKER_NAME = f"bull:{b64encode(QUEUE.encode()).decode()}"
ATTEMPTS = 5

# As Docora 1.3.0 chooses the links to queue.
DUE = """
SELECT app_id, repository_id, status FROM app_repositories JOIN repositories r USING (repository_id)
WHERE (status = 'pending_snapshot' OR status = 'failed' AND r.circuit_open_until IS NULL)
    AND (r.circuit_open_until IS NULL OR r.circuit_open_until < now())
"""
SET_STATUS = """
UPDATE app_repositories SET status = %(status)s, last_error = %(error)s,
    retry_count = coalesce(%(retry_count)s, retry_count)
WHERE app_id || '-' || repository_id = %(job_id)s
"""
WAIT_FOR_ROW = """
SELECT pid FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE app_repositories SET status%'
    AND datname = current_database() AND pid <> pg_backend_pid()
"""
Work = Callable[[str], str | None]
"""Runs a job, given by its id. Returns the error, if any."""


class Producer:
    """A process that makes jobs, for all tests: it takes a second to start."""

    def __init__(self, url: str) -> None:
        self._process = _start("produce", url, QUEUE)
        self._lock = Lock()

    def __call__(self, what: str, *arguments: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
            self._process.stdin.flush()
            [answer] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        end(self._process)


class Bullmq:
    def __init__(self, docora: Docora, produce: Producer) -> None:
        self.docora = docora
        self._produce = produce
        docora.redis.hset(f"bull:{QUEUE}:meta", "version", VERSION)

    def run(self, *arguments: str, **options: Any) -> Result:
        return self.docora.run(*arguments, **{"env": self.environment(), **options})

    def environment(self, **changes: str) -> dict[str, str]:
        return {"DOCORA_OPS_BACKEND": "bullmq", **changes}

    def key(self, name: str) -> str:
        return f"bull:{QUEUE}:{name}"

    def kept_keys(self) -> dict[bytes, object]:
        """All of BullMQ's keys with their values; those that end by themselves may have ended."""
        redis = self.docora.redis
        names = sorted(cast("list[bytes]", redis.keys("bull:*")))
        return {key: self.docora.contents([key])[0] for key in names if redis.ttl(key) < 0}

    def add(self, link: TestLink, **options: Any) -> None:
        """A job that waits, as Docora's scheduler makes it; or is delayed, or has a priority."""
        names = {"app_name": "Acme Search", "owner": "octo", "name": "api", "isRescan": True}
        keys = {"github_token_encrypted": GITHUB_TOKEN, "client_auth_key_encrypted": AUTH_KEY}
        backoff = {"type": "exponential", "delay": 60_000}
        made = {"jobId": link.job_id, "attempts": ATTEMPTS, "backoff": backoff, **options}
        self._produce("add", "snapshot", asdict(link) | names | keys, made)

    def delay(self, link: TestLink) -> None:
        self.add(link, delay=60_000)

    def pause(self, link: TestLink) -> None:
        """A waiting job of a queue that is paused: BullMQ 5 renames its list, BullMQ 6 does not."""
        self.add(link)
        self._produce("pause")
        if self.docora.redis.exists(self.key("wait")):
            self.docora.redis.rename(self.key("wait"), self.key("paused"))

    def start(self, link: TestLink) -> None:
        self.add(link)
        assert self._produce("take") == link.job_id

    def stall(self, link: TestLink) -> None:
        self.start(link)
        self.expire_lock(link)

    def expire_lock(self, link: TestLink) -> None:
        self.docora.redis.delete(self.key(f"{link.job_id}:lock"))

    def complete(self, link: TestLink) -> None:
        self._run(link, None, "completed")

    def fail(self, link: TestLink) -> None:
        self._run(link, "boom", "failed", attempts=1)

    def fail_once(self, link: TestLink, error: str = "boom") -> None:
        self._run(link, error, "delayed")

    def _run(self, link: TestLink, error: str | None, state: str, **options: Any) -> None:
        with self.worker(lambda _job_id: error):
            self.add(link, **options)
            self.await_state(link, state)

    def promote(self, link: TestLink) -> None:
        self._produce("promote", link.job_id)

    def await_state(self, link: TestLink, state: str) -> None:
        eventually(lambda: self.state(link) == state, f"a job that is {state}")

    def state(self, link: TestLink) -> str | None:
        return cast("str | None", self._produce("state", link.job_id))

    def schedule(self, *statuses: str, attempts: int = ATTEMPTS) -> None:
        """One pass of Docora's scheduler; of links with one of the statuses, if any are given."""
        with psycopg.connect(self.docora.database_url) as connection:
            rows = connection.execute(DUE).fetchall()
        for app_id, repository_id, status in rows:
            link = TestLink(app_id, repository_id)
            state = self.state(link)
            is_live = state in {"waiting", "active", "delayed"}
            if is_live or (statuses and status not in statuses):
                continue
            if state is not None:
                self._produce("remove", link.job_id)
            self.add(link, attempts=attempts)

    def write(
        self, job_id: str, status: str, error: str | None = None, retry_count: int | None = None
    ) -> None:
        values = {"status": status, "error": error, "retry_count": retry_count}
        with psycopg.connect(self.docora.database_url, autocommit=True) as connection:
            connection.execute(SET_STATUS, {"job_id": job_id, **values})

    def waits_for_row(self) -> bool:
        return bool(self.docora.connection.execute(WAIT_FOR_ROW).fetchall())

    @contextmanager
    def worker(self, work: Work) -> Iterator[None]:
        """A real worker, whose jobs do this; killed at the end of the block."""
        process = start_worker(self.docora.redis_url)

        def serve(begun: Iterable[str]) -> None:
            assert process.stdin
            for line in begun:
                [job_id] = json.loads(line)
                error = work(job_id)
                with suppress(OSError):
                    process.stdin.write(json.dumps([job_id, error]) + "\n")
                    process.stdin.flush()

        assert process.stdout
        server = Thread(target=serve, args=(process.stdout,))
        server.start()
        clients = self.docora.redis.client_list
        try:
            eventually(lambda: WORKER_NAME in {each["name"] for each in clients()}, "a worker")
            yield
        finally:
            process.kill()
            server.join(patience())
            end(process)

    @contextmanager
    def docora_at_work(self, error_of: Work = lambda _job_id: None) -> Iterator[None]:
        """A worker that writes what Docora's writes, and a scheduler that queues pending links.

        `error_of`: why the snapshot fails for good, if it does. The scheduler's next pass, which
        would queue a failed link, is far away.
        """
        done = Event()

        def snapshot(job_id: str) -> str | None:
            self.write(job_id, "scanning")
            if error := error_of(job_id):
                self.write(job_id, "failed", error, ATTEMPTS)
            else:
                self.write(job_id, "synced", retry_count=0)
            return error

        def schedule() -> None:
            while not done.wait(0.2):
                self.schedule("pending_snapshot", attempts=1)

        with self.worker(snapshot):
            thread = Thread(target=schedule)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join(patience())


def start_worker(url: str) -> subprocess.Popen[str]:
    return _start("work", url, QUEUE, WORKER_NAME)


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.bullmq_process", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()  # which disregards a broken pipe
