"""Whole workers that are killed: another one takes up what they had in hand."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import psycopg
import pytest
from pydantic import SecretStr
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import JobStatus
from rq.registry import clean_registries

from docora_ops.actions.repair import abandoned as abandoned_links
from docora_ops.queue import connect
from docora_ops.worker.recovery import LinkRecovery
from tests.support.docora import QUEUE
from tests.support.git_over_http import gate_at
from tests.support.proxy import eventually, refused_port
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots, Upstream
from tests.support.worker_processes import expire_heartbeats, has_live_job, running

CUT_OFF = "the snapshot was cut off: its worker was killed"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_links, "SECOND_LOOK_DELAY", 0.02)


def kill_worker_at_work(snapshots: Snapshots, link: TestLink) -> None:
    """Have a worker killed, with its work-horse, in the middle of the link's job."""
    with gate_at(snapshots.receiver, "b") as gate, running(snapshots) as worker:
        gate.wait()
        worker.signal_all(signal.SIGKILL)
        worker.end()
        eventually(lambda: worker.processes == [], "the end of all its processes")
    assert snapshots.docora.status(link) == "scanning"
    assert snapshots.docora.job(link).get_status() is JobStatus.STARTED


def begin(snapshots: Snapshots, link: TestLink, retry_count: int = 0) -> None:
    """What a worker has done that has just begun the link's waiting job."""
    docora = snapshots.docora
    docora.connection.execute(
        "UPDATE app_repositories SET status = 'scanning', retry_count = %s, last_error = NULL"
        " WHERE app_id = %s",
        (retry_count, link.app_id),
    )
    job = docora.job(link)
    assert docora.redis.lrem(docora.queue.key, 0, link.job_id) == 1
    job.set_status(JobStatus.STARTED)
    with docora.redis.pipeline() as pipeline:
        Execution.create(job, 90, pipeline, worker_name="killed")
        pipeline.execute()


def add_link(snapshots: Snapshots, *, attempts: int) -> tuple[TestLink, Upstream]:
    """A link whose job waits, with this many tries and no delay between them."""
    link, upstream = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.queue(link, max_retry_attempts=attempts, retry_base_delay_ms=0)
    return link, upstream


def tidy_up(snapshots: Snapshots) -> None:
    """What each worker does when it starts, and now and then."""
    LinkRecovery(snapshots.settings, snapshots.docora.redis).recover_abandoned_links(lambda: None)


def assert_synced(snapshots: Snapshots, link: TestLink, upstream: Upstream) -> None:
    row = snapshots.docora.row(link)
    assert (row["status"], row["retry_count"], row["last_error"]) == ("synced", 0, None)
    assert snapshots.received().files == upstream.contents()
    assert set(snapshots.deliveries(link)) == set(upstream.contents())
    assert not has_live_job(snapshots.docora, link)


def assert_given_up(snapshots: Snapshots, link: TestLink, retry_count: int) -> None:
    row = snapshots.docora.row(link)
    assert (row["status"], row["retry_count"]) == ("failed", retry_count)
    assert row["last_error"] == CUT_OFF
    assert not has_live_job(snapshots.docora, link)


def test_another_worker_takes_up_the_job_once_the_heartbeat_has_expired(
    snapshots: Snapshots,
) -> None:
    link, upstream = add_link(snapshots, attempts=3)
    kill_worker_at_work(snapshots, link)
    # As long as the heartbeat has not expired nobody may touch it.
    assert snapshots.work().code == 0
    assert snapshots.docora.status(link) == "scanning"
    expire_heartbeats(snapshots.docora)
    with running(snapshots, "--burst") as worker:
        assert worker.end() == 0
    assert_synced(snapshots, link, upstream)
    assert "its worker was killed; the link is pending_snapshot" in worker.log
    paths = [request.path for request in snapshots.received().requests]
    assert paths.count("a") == 1


def test_the_last_try_of_a_killed_worker_makes_the_link_failed(snapshots: Snapshots) -> None:
    link, _ = add_link(snapshots, attempts=1)
    kill_worker_at_work(snapshots, link)
    expire_heartbeats(snapshots.docora)
    assert snapshots.work().code == 0
    assert_given_up(snapshots, link, 1)
    assert snapshots.docora.job(link).get_status() is JobStatus.FAILED


def lose_job(snapshots: Snapshots, link: TestLink) -> None:
    expire_heartbeats(snapshots.docora)
    snapshots.docora.job(link).delete()


def lose_hash(snapshots: Snapshots, link: TestLink) -> None:
    expire_heartbeats(snapshots.docora)
    snapshots.docora.redis.delete(f"rq:job:{link.job_id}")


def fail_job(snapshots: Snapshots, link: TestLink) -> None:
    """As a plain worker does, that knows nothing of the link."""
    expire_heartbeats(snapshots.docora)
    snapshots.docora.redis.hset(f"rq:job:{link.job_id}", "retries_left", 0)
    clean_registries(snapshots.docora.queue, [])
    assert snapshots.docora.registries(link.job_id) == {f"rq:failed:{QUEUE}"}


def flush(snapshots: Snapshots, link: TestLink) -> None:
    snapshots.docora.redis.flushdb()


def finish_job(snapshots: Snapshots, link: TestLink) -> None:
    snapshots.docora.redis.delete(f"rq:wip:{QUEUE}")
    expire_heartbeats(snapshots.docora)
    snapshots.docora.job(link).set_status(JobStatus.FINISHED)


def queue_nowhere(snapshots: Snapshots, link: TestLink) -> None:
    finish_job(snapshots, link)
    snapshots.docora.job(link).set_status(JobStatus.QUEUED)


def keep_expired(snapshots: Snapshots, link: TestLink) -> None:
    """Nobody's cleanup has been there yet."""
    expire_heartbeats(snapshots.docora)


LOSSES = (lose_job, lose_hash, fail_job, flush, finish_job, queue_nowhere, keep_expired)


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_link_whose_job_was_lost_is_queued_again(
    snapshots: Snapshots, lose: Callable[[Snapshots, TestLink], None]
) -> None:
    link, _ = add_link(snapshots, attempts=3)
    begin(snapshots, link, retry_count=1)
    tidy_up(snapshots)
    assert snapshots.docora.row(link)["retry_count"] == 1  # it seems to be at work
    lose(snapshots, link)
    tidy_up(snapshots)
    row = snapshots.docora.row(link)
    assert (row["status"], row["retry_count"]) == ("pending_snapshot", 2)
    assert row["last_error"] == CUT_OFF
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.registries(link.job_id) == set()
    assert snapshots.docora.job(link).kwargs["app_id"] == link.app_id
    tidy_up(snapshots)
    assert snapshots.docora.row(link) == row


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_a_link_whose_job_was_lost_too_often_is_failed(
    snapshots: Snapshots, lose: Callable[[Snapshots, TestLink], None]
) -> None:
    link, _ = add_link(snapshots, attempts=5)
    begin(snapshots, link, retry_count=4)
    lose(snapshots, link)
    tidy_up(snapshots)
    assert_given_up(snapshots, link, 5)


def test_a_link_whose_job_was_lost_is_served_by_the_next_worker(snapshots: Snapshots) -> None:
    link, upstream = add_link(snapshots, attempts=3)
    kill_worker_at_work(snapshots, link)
    snapshots.docora.redis.flushdb()
    with running(snapshots, "--burst") as one, running(snapshots, "--burst") as other:
        assert (one.end(), other.end()) == (0, 0)
    assert_synced(snapshots, link, upstream)
    said = f"{link.job_id}: left behind by a killed worker; it is queued again"
    assert (one.log + other.log).count(said) == 1
    assert [request.path for request in snapshots.received().requests] == ["a", "b", "b"]


def test_a_link_that_is_being_scanned_is_left_alone_even_without_a_trace_in_redis(
    snapshots: Snapshots,
) -> None:
    link, upstream = add_link(snapshots, attempts=3)
    with gate_at(snapshots.receiver, "b") as gate, running(snapshots, "--burst") as worker:
        gate.wait()
        before = snapshots.docora.row(link)
        flush(snapshots, link)
        assert "left behind" not in snapshots.work().stderr
        assert snapshots.docora.row(link) == before
        assert snapshots.docora.waiting() == []
        gate.release()
        worker.end()
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().files == upstream.contents()
    assert len(snapshots.received().requests) == 2


def test_a_link_whose_job_waits_or_is_delayed_is_left_alone(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    waiting, delayed, taken = (docora.add_link("scanning", retry_count=1) for _ in range(3))
    docora.enqueue(waiting.job_id)
    docora.schedule_job(delayed.job_id)
    docora.leave_job(taken.job_id, JobStatus.QUEUED)
    docora.redis.rpush(docora.queue.intermediate_queue_key, taken.job_id)
    before = docora.dump()
    tidy_up(snapshots)
    assert docora.dump() == before


def test_a_link_that_somebody_is_changing_is_left_to_the_next_look(snapshots: Snapshots) -> None:
    first, second = (snapshots.docora.add_link("scanning", retry_count=0) for _ in range(2))
    snapshots.settings_changes["lock_timeout"] = 1
    with psycopg.connect(snapshots.docora.database_access.owner) as producer:
        producer.execute(
            "SELECT FROM app_repositories WHERE app_id = %s FOR UPDATE", (first.app_id,)
        )
        tidy_up(snapshots)
    assert snapshots.docora.status(first) == "scanning"
    assert snapshots.docora.status(second) == "pending_snapshot"
    tidy_up(snapshots)
    assert snapshots.docora.status(first) == "pending_snapshot"
    snapshots.docora.assert_sound()


def test_servers_that_are_away_do_not_end_the_worker(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture
) -> None:
    link = snapshots.docora.add_link("scanning")
    snapshots.settings_changes["database_url"] = SecretStr(
        f"postgres://ada:hunter2@127.0.0.1:{refused_port()}/docora"
    )
    tidy_up(snapshots)
    del snapshots.settings_changes["database_url"]
    snapshots.settings_changes["redis_url"] = SecretStr(f"redis://127.0.0.1:{refused_port()}")
    with connect(snapshots.settings) as gone:
        LinkRecovery(snapshots.settings, gone).recover_abandoned_links(lambda: None)
    assert caplog.text.count("links left behind can't be looked for") == 2
    assert "hunter2" not in caplog.text
    assert snapshots.docora.status(link) == "scanning"


def test_a_busy_worker_looks_after_links_of_killed_ones(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    # Every second, where it would be every half minute.
    (tmp_path / "sitecustomize.py").write_text(
        "import docora_ops.worker.rq_worker as module\n"
        "module._MAINTENANCE_INTERVAL = 0\n"
        "init = module.SnapshotWorker.__init__\n"
        "def patched(self, *arguments):\n"
        "    init(self, *arguments)\n"
        "    self.job_monitoring_interval = 1\n"
        "module.SnapshotWorker.__init__ = patched\n"
    )
    link, _ = add_link(snapshots, attempts=3)
    abandoned = snapshots.docora.add_link()
    with (
        gate_at(snapshots.receiver, "b") as gate,
        running(snapshots, "--burst", PYTHONPATH=str(tmp_path)) as worker,
    ):
        gate.wait()
        snapshots.queue(abandoned, max_retry_attempts=1)
        begin(snapshots, abandoned)
        left = snapshots.docora.add_link("scanning", retry_count=0)
        before = snapshots.docora.row(link)
        snapshots.docora.redis.zadd(
            f"rq:wip:{QUEUE}",
            {
                member: 1
                for member in cast(
                    "list[bytes]", snapshots.docora.redis.zrange(f"rq:wip:{QUEUE}", 0, -1)
                )
                if abandoned.job_id.encode() in member
            },
        )
        worker.await_line(f"{left.job_id}: left behind")
        worker.await_line("its worker was killed; the link is failed")
        assert snapshots.docora.row(left)["retry_count"] == 1
        assert snapshots.docora.waiting() == [left.job_id]
        assert_given_up(snapshots, abandoned, 1)
        assert snapshots.docora.row(link) == before
        snapshots.docora.redis.delete(snapshots.docora.queue.key)
        gate.release()
        assert worker.end() == 0
    assert snapshots.docora.status(link) == "synced"


@pytest.mark.parametrize(("attempts", "status"), [(2, "synced"), (1, "failed")])
def test_a_job_whose_worker_was_killed_before_it_began_is_not_lost(
    snapshots: Snapshots, attempts: int, status: str
) -> None:
    link, _ = add_link(snapshots, attempts=attempts)
    queue = snapshots.docora.queue
    snapshots.docora.redis.lmove(queue.key, queue.intermediate_queue_key)
    queue.intermediate_queue.set_first_seen(link.job_id)
    key = queue.intermediate_queue.get_first_seen_key(link.job_id)
    snapshots.docora.redis.set(key, 1)  # long ago
    assert snapshots.work().code == 0
    row = snapshots.docora.row(link)
    assert row["status"] == status
    assert not has_live_job(snapshots.docora, link)
    if status == "failed":
        assert row["last_error"].endswith("its worker was killed before it began")


def test_a_plain_worker_beside_ours_does_no_harm(snapshots: Snapshots) -> None:
    """Its registry cleanup makes an abandoned job a retried one, without a word to the link."""
    link, upstream = add_link(snapshots, attempts=3)
    kill_worker_at_work(snapshots, link)
    expire_heartbeats(snapshots.docora)
    worker = SimpleWorker([snapshots.docora.queue], connection=snapshots.docora.redis)
    worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
    assert snapshots.docora.status(link) == "scanning"
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.work().code == 0
    assert_synced(snapshots, link, upstream)
