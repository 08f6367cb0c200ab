"""What systemd and the exec probe of Kubernetes are told: that a worker listens, lives and ends."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import pytest
from pydantic import SecretStr

from docora_ops.queue import connect
from docora_ops.queue.rq_jobs import keep_files
from docora_ops.worker import snapshot_job
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.docora import Docora, Result
from tests.support.proxy import Proxy, eventually, patience, refused_port
from tests.support.receiver import Request
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import await_waiting_worker, held_worker, running

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"


class Manager:
    """The socket of a service manager."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    def receive(self, *, at_once: bool = False) -> set[str]:
        self._receiver.settimeout(0 if at_once else patience())
        return set(self._receiver.recv(1024).decode().split("\n"))

    def await_state(self, state: str) -> None:
        while state not in self.receive():
            pass

    def drain(self) -> list[set[str]]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.receive(at_once=True))
        return found


@contextmanager
def manager_at(address: str) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0"))
        yield Manager(receiver)


def check(snapshots: Snapshots, **changes: str | None) -> Result:
    """The exec probe, for which no server is there."""
    nowhere = f"localhost:{refused_port()}"
    servers = {"DATABASE_URL": f"postgres://{nowhere}/docora", "REDIS_URL": f"redis://{nowhere}"}
    env = snapshots.environment(**(servers | changes))
    return snapshots.docora.run("worker", "--check", env=env)


def beat(snapshots: Snapshots) -> float:
    if not snapshots.heartbeat_file.exists():
        return 0.0
    return float(json.loads(snapshots.heartbeat_file.read_text())["at"])


def await_beats(snapshots: Snapshots) -> None:
    before = beat(snapshots)
    eventually(lambda: beat(snapshots) > before, "another heartbeat")


def test_a_worker_that_listens_lives_and_ends_says_so(snapshots: Snapshots, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with (
        manager_at(address) as manager,
        running(snapshots, "--name", "w", NOTIFY_SOCKET=address) as worker,
    ):
        assert manager.receive() == {READY, ALIVE}
        assert snapshots.docora.redis.smembers("rq:workers") == {b"rq:worker:w"}
        assert manager.receive() == {ALIVE}
        probe = check(snapshots)
        assert (probe.code, probe.stderr) == (0, "")
        assert probe.stdout.startswith(f"worker w (process {worker.pid}) is alive: last heartbeat ")
        worker.signal(SIGTERM)
        manager.await_state(STOPPING)
        assert worker.end() == 0
        assert STOPPING not in set().union(*manager.drain())
    probe = check(snapshots)
    assert (probe.code, probe.stdout) == (6, "")
    assert f"no heartbeat file {snapshots.heartbeat_file}" in probe.stderr


def await_heartbeats(snapshots: Snapshots, pid: int, count: int) -> None:
    """Waits until the worker of a process has sent heartbeats to Redis, at most one a second."""
    redis = snapshots.docora.redis
    workers = redis.smembers("rq:workers")
    (key,) = (key for key in workers if redis.hget(key, "pid") == str(pid).encode())
    seen = {redis.hget(key, "last_heartbeat")}

    def is_heard() -> bool:
        seen.add(redis.hget(key, "last_heartbeat"))
        return len(seen) > count

    eventually(is_heard, "the heartbeats")


def test_each_docora_has_a_heartbeat_file_whatever_the_password(snapshots: Snapshots) -> None:
    def file(database: str, redis: str = "/0") -> str:
        urls = {"DATABASE_URL": f"postgres://{database}", "REDIS_URL": f"redis://:s3cr3t@h{redis}"}
        probe = check(snapshots, DOCORA_OPS_HEARTBEAT_FILE=None, **urls)
        assert probe.code == 6
        [name] = re.findall(rf"/docora-ops-worker-{os.geteuid()}-[0-9a-f]{{8}}\.json", probe.stderr)
        return str(name)

    assert file("u:old@h/docora") == file("u:new@h/docora")
    assert len({file("u@h/docora"), file("u@h/other"), file("u@h/docora", "/1")}) == 3


@pytest.mark.slow
def test_one_of_several_workers_that_hangs_silences_all_and_one_that_is_killed_does_not(
    snapshots: Snapshots,
) -> None:
    address = f"@docora-ops-test-{os.getpid()}"  # an abstract socket
    with (
        manager_at(address) as manager,
        running(snapshots, "--concurrency", "3", NOTIFY_SOCKET=address) as worker,
    ):
        assert manager.receive() == {READY, ALIVE}
        assert snapshots.docora.redis.scard("rq:workers") == 3
        worker.await_ready(3)
        hung, killed, other = worker.children
        os.kill(killed, SIGKILL)
        worker.await_ready(4)
        await_beats(snapshots)
        os.kill(hung, SIGSTOP)
        await_heartbeats(snapshots, other, 3)  # what was noted before may be passed on until then
        manager.drain()
        last = beat(snapshots)
        await_heartbeats(snapshots, other, 3)
        assert (manager.drain(), beat(snapshots)) == ([], last)
        os.kill(hung, SIGCONT)
        assert manager.receive() == {ALIVE}
        worker.stop()
        assert STOPPING in set().union(*manager.drain())
    assert not snapshots.heartbeat_file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "2"])
def test_a_job_that_takes_long_is_no_worker_that_hangs(snapshots: Snapshots, count: str) -> None:
    snapshots.add_queued({"a": "1\n", "b": "2\n"})
    with held_worker(snapshots, "--concurrency", count) as (gate, _):
        await_beats(snapshots)
        await_beats(snapshots)
        gate.release()


def test_a_check_of_a_worker_that_hangs_fails_when_its_time_is_over(snapshots: Snapshots) -> None:
    with running(snapshots, "--name", "w") as worker:
        worker.await_ready()
        eventually(snapshots.heartbeat_file.exists, "a heartbeat")
        worker.signal(SIGSTOP)

        def age(seconds: float) -> Result:
            path = snapshots.heartbeat_file
            path.write_text(json.dumps(json.loads(path.read_text()) | {"at": at - seconds}))
            return check(snapshots)

        at = beat(snapshots)
        assert age(170).code == 0
        probe = age(240)
        assert (probe.code, probe.stdout) == (6, "")
        assert f"Error: worker w (process {worker.pid}) hangs or was killed: last heartbeat 4m" in (
            probe.stderr
        )
        assert "(limit 3m)" in probe.stderr
        # Written before the machine was restarted.
        assert age(-1_000_000).code == 6
        assert age(0).code == 0
        worker.kill()
        assert check(snapshots).code == 6
        snapshots.heartbeat_file.write_text("[]")
        assert "no heartbeat file" in check(snapshots).stderr


def test_a_worker_without_redis_is_alive_and_waits(snapshots: Snapshots, docora: Docora) -> None:
    with (
        Proxy.before_redis(docora.redis_access.worker) as proxy,
        running(snapshots, REDIS_URL=proxy.url) as worker,
    ):
        worker.await_ready()
        proxy.go_away()
        worker.await_line("waits until it answers")
        first = proxy.connections
        await_beats(snapshots)
        eventually(lambda: proxy.connections > first, "another attempt")
        assert check(snapshots).code == 0
        proxy.come_back()
        worker.await_line("Redis answers again")
        link, _ = snapshots.add_queued({"a": "1\n"})
        eventually(lambda: docora.status(link) == "synced", "a job")
    [lost] = re.findall("WARNING (.*); waits until it answers\n", worker.log)
    server = rf"Redis at 127\.0\.0\.1:{proxy.port}/\d+"
    why = "(broke the connection|can't be reached: connection refused)"
    assert re.fullmatch(f"worker [^ ]*: {server} {why}", lost), lost
    assert worker.log.count("Redis answers again") == 1


@pytest.mark.slow
def test_a_worker_without_postgres_takes_no_job_until_it_is_back(
    snapshots: Snapshots, docora: Docora
) -> None:
    links = list(snapshots.add_links(["One", "Two", "Three"]).values())
    with (
        Proxy.before_postgres(docora.database_access.worker) as proxy,
        running(snapshots, DATABASE_URL=proxy.url) as worker,
    ):
        await_waiting_worker(docora)
        proxy.go_away()
        for link in links:
            snapshots.queue(link, retry_base_delay_ms=0)
        worker.await_line("takes no job: Postgres database ")
        first = proxy.connections
        eventually(lambda: proxy.connections > first, "another attempt")
        [shown] = docora.run("queue", "--json").data["workers"]
        assert shown["no_job_reason"]["code"] == "postgres"
        assert shown["no_job_reason"]["message"] in worker.log
        await_beats(snapshots)
        proxy.come_back()
        worker.await_line("takes jobs again")
        eventually(lambda: docora.statuses() == {"synced": 3}, "all jobs")
    assert worker.log.count("takes no job") == worker.log.count("takes jobs again") == 1
    assert worker.log.count("; tried again in ") == 1  # the job that has found out
    assert [docora.row(link)["retry_count"] for link in links] == [0, 0, 0]


def test_without_a_place_for_the_file_a_worker_works_and_says_so_once(snapshots: Snapshots) -> None:
    path = "/dev/null/heartbeat.json"
    link, _ = snapshots.add_queued({"a": "1\n"})
    nowhere = {"DOCORA_OPS_HEARTBEAT_FILE": path}
    worked = snapshots.work(**nowhere).ended(0)
    assert worked.stderr.count(f"no heartbeat file {path}, so --check fails") == 1
    assert snapshots.docora.status(link) == "synced"
    assert check(snapshots, **nowhere).code == 6


def test_a_running_job_tells_how_many_files_it_has_sent(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_queued({"a": "1", "b": "2", "c": "3"})
    told: list[bytes] = []

    def answer(_: Request) -> int:
        told.append(snapshots.docora.job_hash(link.job_id)["files"])
        return 200

    snapshots.receiver.answer = answer
    monkeypatch.setattr(snapshot_job, "_RECORD_INTERVAL", 0)
    snapshots.work_here()
    assert [numbers.split()[:2] for numbers in told] == [[b"0", b"3"], [b"1", b"3"], [b"2", b"3"]]


def test_the_number_of_files_revives_no_job(docora: Docora) -> None:
    job = docora.enqueue("app_a-repo_a")
    keep_files(docora.redis, job, 1, 2)
    assert b"files" not in docora.redis.hgetall(job.key), "it was queued anew"
    docora.redis.delete(job.key)
    keep_files(docora.redis, job, 1, 2)
    assert not docora.redis.exists(job.key)


def test_the_pauses_between_two_attempts_grow_up_to_ten_seconds(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            worker.handle_signal(SIGTERM, None)

    with Proxy.before_redis(snapshots.docora.redis_access.worker) as proxy:
        settings = snapshots.settings.model_copy(update={"redis_url": SecretStr(proxy.url)})
        worker = SnapshotWorker(settings, connect(settings), "w")
        monkeypatch.setattr(worker, "_wait", wait)
        proxy.go_away()
        assert worker._work_until_stopped(burst=False) == "as told"
    assert pauses == [1, 2, 4, 8, 10, 10]
