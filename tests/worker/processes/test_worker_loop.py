"""The loop of a worker goes on through what is not its fault, and says when it does not."""

import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
import redis
from rq import Worker
from rq.executions import Execution

from docora_ops.queue import connect
from docora_ops.worker.clone import Clone
from docora_ops.worker.git import Git
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.snapshots import Snapshots


@pytest.fixture
def worker(snapshots: Snapshots) -> SnapshotWorker:
    client = connect(snapshots.settings)
    return SnapshotWorker(snapshots.settings, client, "worker-1")


@pytest.mark.parametrize("error", [redis.ConnectionError, redis.TimeoutError])
def test_a_heartbeat_that_redis_does_not_take_does_not_end_the_worker(
    snapshots: Snapshots,
    worker: SnapshotWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[redis.RedisError],
) -> None:
    link, _ = snapshots.add_link({"a": "1"})
    execution = snapshots.docora.start_job(link.job_id)
    heartbeats: list[Execution] = []

    def refuse(_worker: Worker, _job: object, execution: Execution) -> None:
        heartbeats.append(execution)
        raise error

    monkeypatch.setattr(Worker, "maintain_heartbeats", refuse)
    worker.maintain_heartbeats(snapshots.docora.job(link), execution)
    assert heartbeats == [execution]
    assert "no heartbeat" in caplog.text


def test_heartbeats_are_a_second_apart_though_the_clock_of_the_host_is_set_back(
    snapshots: Snapshots, worker: SnapshotWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = snapshots.docora.redis

    def lives_on() -> bool:
        redis.expire(worker.key, 10)
        worker.heartbeat()
        return int(redis.ttl(worker.key)) > 10

    worker.heartbeat()
    assert not lives_on()
    worker.last_heartbeat = datetime.now(UTC) + timedelta(hours=1)
    later = time.monotonic() + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert lives_on()


@pytest.mark.parametrize("burst", [True, False])
def test_a_worker_that_rq_ends_by_itself_says_so(snapshots: Snapshots, burst: bool) -> None:
    """A job whose hash can't be read ends RQ's loop; the jobs behind it still wait."""
    link, _ = snapshots.add_link({"a": "1"})
    docora = snapshots.docora
    docora.enqueue("poison")
    docora.redis.hset("rq:job:poison", "created_at", "not a moment")
    snapshots.queue(link)
    arguments = ("--burst",) if burst else ()
    result = docora.run("worker", *arguments, env=snapshots.environment())
    assert result.code == 5, result
    assert "the worker could not go on" in result.stderr
    assert docora.waiting() == [link.job_id]
    assert snapshots.work().code == 0
    assert docora.status(link) == "synced"


def test_a_signal_that_comes_once_it_has_ended_cuts_nothing_off(
    worker: SnapshotWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "work", lambda *_, **__: False)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        with pytest.raises(RuntimeError, match="could not go on"):
            worker.work_until_stopped(burst=True)
        for number in numbers:
            signal.raise_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_clone_that_another_job_has_made_anew_is_not_thrown_away(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1"})

    def clone() -> Clone:
        settings = snapshots.settings
        return Clone(
            settings.repos_base_path,
            "octo",
            "api",
            Git(upstream.url, token=None, protocols=["file"], timeout=60, keep_alive=lambda: None),
        )

    snapshots.run_job(link)
    slow, quick = clone(), clone()
    slow.sync()
    quick.sync()
    quick.discard()
    assert not quick.path.exists()
    quick.sync()
    slow.discard()
    assert quick.path.exists()
    commit = quick.sync()
    assert commit is not None
    with quick.objects() as objects:
        assert [entry.path for entry in objects.files(commit.sha)] == [b"a"]
