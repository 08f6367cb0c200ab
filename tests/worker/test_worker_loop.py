"""The loop: what it goes on through, when it takes no job, and that one process runs what waits."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGALRM
from typing import Any, cast

import pytest
import redis
from rq import Worker

from docora_ops.queue import connect
from docora_ops.worker import reasons
from docora_ops.worker.resources import Resources
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.bullmq import Bullmq
from tests.support.clocks import clock_in, with_wrong_clock
from tests.support.delivery_checks import link_row
from tests.support.docora import QUEUE, Docora
from tests.support.proxy import Fault, Proxy, eventually
from tests.support.receiver import Request
from tests.support.running_commands import terminate_sessions
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import (
    await_waiting_worker,
    expire_heartbeats,
    held_worker,
    make_delayed_jobs_due,
    running,
)

APPS = ["One", "Two", "Three", "Four"]


def test_a_busy_worker_looks_after_links_of_killed_ones_whatever_becomes_of_its_heartbeat(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_link({"a": "1"})
    execution = docora.start_job(link.job_id)
    left = docora.add_link("scanning", retry_count=0)
    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        worker.register_birth()  # type: ignore[no-untyped-call]
        worker.maintain_heartbeats(docora.job(link), execution)
        assert docora.row(left)["retry_count"] == 1
        assert docora.waiting() == [left.job_id]

        def refuse(*_: object) -> None:
            raise redis.TimeoutError

        monkeypatch.setattr(Worker, "maintain_heartbeats", refuse)
        worker.maintain_heartbeats(docora.job(link), execution)
    assert "did not answer in time; waits until it answers" in caplog.text


def test_suspended_workers_queue_what_killed_ones_have_left_and_delayed_jobs(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    link, _ = snapshots.add_queued({"a": "1"})
    docora.redis.lrem(docora.queue.key, 1, link.job_id)
    docora.queue.schedule_job(docora.job(link), datetime.now(UTC) - timedelta(seconds=1))
    left = docora.add_link("scanning", retry_count=0)
    assert docora.run("pause").code == 0
    with running(snapshots):
        queued = sorted([link.job_id, left.job_id])
        eventually(lambda: sorted(docora.waiting()) == queued, "both jobs in the list")
        assert docora.status(left) == "pending_snapshot"
    assert snapshots.received().requests == []


def test_a_job_that_can_not_be_read_keeps_up_none_behind_it(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    docora.enqueue("poison")
    docora.redis.hset("rq:job:poison", "created_at", "not a moment")
    link, _ = snapshots.add_queued({"a": "1"})
    snapshots.work().ended(0, says="job poison can't be read: ValueError")
    assert docora.status(link) == "synced"
    assert docora.waiting() == []
    assert docora.redis.llen(f"rq:queue:{QUEUE}:intermediate") == 0


@pytest.mark.slow
def test_a_job_that_loses_redis_before_it_begins_is_not_lost(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=3, retry_base_delay_ms=0)
    docora = snapshots.docora
    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        # First the worker tells of its execution, then the job that it has begun.
        plans = [
            proxy.plan(b"worker_name", Fault.LOSE_REQUEST, 2),
            proxy.plan(b"failed_job_count", Fault.LOSE_REQUEST),
        ]
        with running(snapshots, "--burst", REDIS_URL=proxy.url) as worker:
            worker.end()
        assert [plan.reached.is_set() for plan in plans] == [True, True]
    assert re.search("it could not be run: Redis broke the connection; ", worker.log)
    assert docora.status(link) == "pending_snapshot"
    docora.redis.set(f"rq:queue:{QUEUE}:intermediate:first_seen:{link.job_id}", 1)
    expire_heartbeats(docora)
    for _ in range(2):
        make_delayed_jobs_due(docora)
        assert snapshots.work().code == 0
    assert link_row(snapshots, link) == ("synced", 0, None)


def counted(docora: Docora) -> tuple[int, int]:
    """How many workers there are, and how many of them are busy."""
    queue = docora.run("status", "--json").data["queue"]
    return len(queue["workers"]), sum(each["state"] == "busy" for each in queue["workers"])


@pytest.mark.slow
def test_a_busy_worker_registers_again_when_redis_has_lost_its_registration(
    snapshots: Snapshots,
) -> None:
    snapshots.add_queued({"a": "1\n", "b": "2\n"})
    docora = snapshots.docora
    with held_worker(snapshots, "--name", "w") as (gate, worker):
        assert counted(docora) == (1, 1)
        docora.redis.flushdb()
        assert counted(docora) == (0, 0)
        worker.signal(SIGALRM)  # RQ's alarm for the next heartbeat
        eventually(lambda: counted(docora) == (1, 1), "a worker that has registered again")
        assert docora.redis.smembers("rq:workers") == {b"rq:worker:w"}
        [shown] = docora.run("queue", "--json").data["workers"]
        assert (shown["name"], shown["state"], shown["pid"]) == ("w", "busy", worker.pid)
        gate.release()


def test_a_session_that_is_ended_between_two_jobs_costs_none(snapshots: Snapshots) -> None:
    with connect(snapshots.settings) as client:
        resources = Resources(snapshots.settings, client)
        first = resources.take_session()
        resources.leave(first, succeeded=True)
        assert resources.take_session() is first
        resources.leave(first, succeeded=True)
        assert terminate_sessions(snapshots.docora) == 1
        with closing(resources.take_session()) as second:
            assert second.rows("SELECT 1")


CAME = "takes no job: a BullMQ worker of Docora was started"
WENT = "takes jobs again"


@pytest.mark.slow
def test_an_idle_worker_takes_no_job_until_it_is_alone_again(
    snapshots: Snapshots, docora: Docora, bullmq: Bullmq
) -> None:
    with running(snapshots, "--name", "w") as worker:
        await_waiting_worker(docora)
        with bullmq.worker(lambda _: None):
            worker.await_line(CAME)
            link, _ = snapshots.add_queued({"a": "1\n"})
            [shown] = docora.run("queue", "--json").data["workers"]
            assert (shown["state"], shown["silent_seconds"]) == ("suspended", None)
            assert shown["no_job_reason"]["code"] == "wrong_backend"
            assert shown["no_job_reason"]["message"] == "a BullMQ worker of Docora runs"
            assert docora.waiting() == [link.job_id]
        worker.await_line(WENT)
        eventually(lambda: docora.status(link) == "synced", "the job")
        with bullmq.worker(lambda _: None):
            worker.await_line(CAME, 2)
            worker.stop()
    assert (worker.log.count(CAME), worker.log.count(WENT)) == (2, 1)


@pytest.mark.slow
def test_a_link_that_docoras_worker_scans_is_not_taken_for_left_behind(
    snapshots: Snapshots, docora: Docora, bullmq: Bullmq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasons, "_LOOK_INTERVAL", 0)
    worker = SnapshotWorker(snapshots.settings, connect(snapshots.settings), "w")
    link = docora.add_link("scanning", retry_count=0)
    with bullmq.worker(lambda _: None):
        worker.maintain()
        assert docora.status(link) == "scanning"
        assert docora.waiting() == []
    worker.maintain()
    assert docora.status(link) == "pending_snapshot"
    assert docora.waiting() == [link.job_id]


def test_maintenance_keeps_its_lock_and_leaves_that_of_another_worker(
    snapshots: Snapshots, docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = docora.redis
    lock = docora.queue.registry_cleaning_key
    worker = SnapshotWorker(snapshots.settings, connect(snapshots.settings), "w")

    def take_long(beat: Callable[[], None]) -> None:
        client.expire(lock, 1)
        beat()
        assert client.ttl(lock) > 100
        client.set(lock, "another worker")
        beat()

    monkeypatch.setattr(worker.recovery, "recover_abandoned_links", take_long)
    worker.maintain()
    assert client.get(lock) == b"another worker"


HOST = socket.gethostname()


@contextmanager
def moments_are_right(snapshots: Snapshots) -> Iterator[None]:
    """What the app is sent within the block bears the right time, to 5 s."""
    began = time.time()
    before = len(snapshots.received("Acme").requests)
    yield
    requests = snapshots.received("Acme").requests[before:]
    assert requests
    for request in requests:
        in_body = datetime.fromisoformat(request.json["timestamp"]).timestamp()
        for moment in (int(request.headers["X-Docora-Timestamp"]), in_body):
            assert began - 5 <= moment <= time.time() + 5


@pytest.mark.slow
@with_wrong_clock
def test_a_worker_takes_no_job_until_its_clock_is_right(
    snapshots: Snapshots, docora: Docora, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("-600")
    link, _ = snapshots.add_queued({"a": "1"})

    def shown() -> dict[str, Any]:
        [worker] = docora.run("queue", "--json").data["workers"]
        return cast("dict[str, Any]", worker)

    with running(snapshots, "--name", "w", **clock_in(clock)) as worker:
        behind = f"the clock of {HOST} is 600 s behind Redis's (set both by NTP"
        worker.await_line(f"worker w: takes no job: {behind}")
        eventually(lambda: shown()["state"] == "suspended", "a worker that takes no job")
        assert abs(shown()["clock_ahead_seconds"] + 600) <= 1
        assert shown()["silent_seconds"] is None
        at = datetime.fromisoformat(shown()["last_heartbeat_at"])
        assert abs(datetime.now(UTC) - at) < timedelta(seconds=60)
        assert docora.waiting() == [link.job_id]
        with moments_are_right(snapshots):
            clock.write_text("+0")
            eventually(lambda: docora.status(link) == "synced", "the end of the job")
    assert worker.log.count("takes no job") == worker.log.count("takes jobs again") == 1
    assert docora.row(link)["retry_count"] == 0


@pytest.mark.slow
@with_wrong_clock
def test_a_clock_that_jumps_during_a_job_changes_nothing_for_the_app(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    link, _ = snapshots.add_queued({"a": "1", "b": "2", "c": "3"})
    with moments_are_right(snapshots), held_worker(snapshots, **clock_in(clock)) as (gate, worker):
        clock.write_text("+600")
        gate.release()
        worker.await_line("takes no job: the clock")
        assert snapshots.docora.status(link) == "synced"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            redis.ConnectionError(
                "Error 1 connecting to redis.internal:6379. [SSL: CERTIFICATE_VERIFY_FAILED] "
                "certificate verify failed: Hostname mismatch, certificate is not valid for "
                "'redis.internal'. (_ssl.c:1007)."
            ),
            "Redis can't be reached",
        ),
        (redis.ResponseError("MOVED 3999 redis.internal:6381"), "Redis answered with an error"),
    ],
)
def test_only_the_log_names_the_host_of_redis(
    snapshots: Snapshots,
    caplog: pytest.LogCaptureFixture,
    error: redis.RedisError,
    sentence: str,
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"})
    snapshots.docora.connection.execute("UPDATE app_repositories SET status = 'scanning'")
    with connect(snapshots.settings) as client:
        worker = SnapshotWorker(snapshots.settings, client, "worker-1")
        worker.handle_exception(snapshots.docora.job(link), type(error), error, None)
    stored = snapshots.docora.row(link)["last_error"]
    assert stored == f"the snapshot was cut off: it could not be run: {sentence}"
    assert re.search(f"worker worker-1: {sentence}: .*redis.internal", caplog.text)


def horses_of(snapshots: Snapshots, answer: Callable[[str, int], int]) -> list[int]:
    """The process by which each app was sent its file; `answer` decides about the request."""
    pids: dict[str, int] = {}

    def note(request: Request) -> int:
        pids[request.app] = worker.horse()
        return answer(request.app, pids[request.app])

    snapshots.receiver.answer = note
    for link in snapshots.add_links(APPS).values():
        snapshots.queue(link, max_retry_attempts=1)
    with running(snapshots) as worker:
        eventually(lambda: snapshots.docora.waiting() == [], "the last job")
        eventually(lambda: worker.horses == [], "the horse's end")
    assert list(pids) == APPS
    return list(pids.values())


@pytest.mark.slow
def test_jobs_that_wait_run_in_one_process_which_ends_when_none_waits(snapshots: Snapshots) -> None:
    holders: list[list[int]] = []

    def answer(_app: str, _pid: int) -> int:
        rows = snapshots.docora.connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        holders.append([row["pid"] for row in rows])
        return 200

    pids = horses_of(snapshots, answer)
    assert pids == [pids[0]] * 4
    # They use one session, which each leaves without a lock.
    assert holders == [holders[0]] * 4
    assert len(holders[0]) == 1
    assert snapshots.docora.statuses() == {"synced": 4}


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_failure_or_kill_means_a_new_process(snapshots: Snapshots, is_killed: bool) -> None:
    def answer(app: str, pid: int) -> int:
        if app != "Two":
            return 200
        if is_killed:
            os.kill(pid, signal.SIGKILL)
        return 500

    pids = horses_of(snapshots, answer)
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert snapshots.docora.statuses() == {"synced": 3, "failed": 1}
    assert snapshots.docora.lost_links() == []
