"""Whole workers that are killed: another one takes up what they had in hand."""

import signal
from collections.abc import Callable

import pytest
from rq.executions import Execution
from rq.job import JobStatus
from rq.registry import clean_registries

from docora_ops.worker.recovery import LinkRecovery
from tests.support.delivery_checks import assert_in_sync, link_row
from tests.support.docora import QUEUE, Docora
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Files, Snapshots
from tests.support.worker_processes import expire_heartbeats, has_live_job, held_worker

FILES: Files = {"a": "1\n", "b": "2\n"}
CUT_OFF = "the snapshot was cut off: its worker was killed"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docora_ops.actions.fix_drift.SECOND_LOOK_DELAY", 0.02)


def begin(snapshots: Snapshots, link: TestLink, retry_count: int = 0) -> None:
    """What a worker has done that has just begun the link's waiting job."""
    docora = snapshots.docora
    docora.set_link(link, status="scanning", retry_count=retry_count, last_error=None)
    job = docora.job(link)
    assert docora.redis.lrem(docora.queue.key, 0, link.job_id) == 1
    job.set_status(JobStatus.STARTED)
    with docora.redis.pipeline() as pipeline:
        Execution.create(job, 90, pipeline, worker_name="killed")
        pipeline.execute()


def tidy_up(snapshots: Snapshots) -> None:
    """What each worker does when it starts, and now and then."""
    LinkRecovery(snapshots.settings, snapshots.docora.redis).recover_abandoned_links()


def assert_given_up(snapshots: Snapshots, link: TestLink, retry_count: int) -> None:
    assert link_row(snapshots, link) == ("failed", retry_count, CUT_OFF)
    assert not has_live_job(snapshots.docora, link)


def test_another_worker_takes_up_the_job_once_the_heartbeat_has_expired(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=3, retry_base_delay_ms=0)
    with held_worker(snapshots) as (_gate, killed):
        killed.signal_all(signal.SIGKILL)
        killed.end()
        eventually(lambda: killed.processes == [], "the end of all its processes")
    assert snapshots.docora.job(link).get_status() is JobStatus.STARTED
    # As long as the heartbeat has not expired nobody may touch it.
    assert snapshots.work().code == 0
    assert snapshots.docora.status(link) == "scanning"
    expire_heartbeats(snapshots.docora)
    assert "its worker was killed; the link is pending_snapshot" in snapshots.work().stderr
    assert_in_sync(snapshots, link, upstream)
    assert not has_live_job(snapshots.docora, link)
    paths = [request.path for request in snapshots.received().requests]
    assert paths.count("a") == 1


def test_the_last_try_of_a_killed_worker_makes_the_link_failed(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=1)
    begin(snapshots, link)
    expire_heartbeats(snapshots.docora)
    assert snapshots.work().code == 0
    assert_given_up(snapshots, link, 1)
    assert snapshots.docora.job(link).get_status() is JobStatus.FAILED


def fail_job(docora: Docora, link: TestLink) -> None:
    """As a plain worker does, that knows nothing of the link."""
    expire_heartbeats(docora)
    docora.redis.hset(f"rq:job:{link.job_id}", "retries_left", 0)
    clean_registries(docora.queue, [])
    assert docora.registries(link.job_id) == {f"rq:failed:{QUEUE}"}


LOSSES: dict[str, Callable[[Docora, TestLink], object]] = {
    "failed": fail_job,
    "all of Redis": lambda docora, _: docora.redis.flushdb(),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_link_whose_job_was_lost_is_queued_again(
    snapshots: Snapshots, lose: Callable[[Docora, TestLink], object]
) -> None:
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=3)
    begin(snapshots, link, retry_count=1)
    tidy_up(snapshots)
    assert snapshots.docora.row(link)["retry_count"] == 1  # it seems to be at work
    lose(snapshots.docora, link)
    tidy_up(snapshots)
    row = snapshots.docora.row(link)
    assert link_row(snapshots, link) == ("pending_snapshot", 2, CUT_OFF)
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.registries(link.job_id) == set()
    assert snapshots.docora.job(link).kwargs["app_id"] == link.app_id
    tidy_up(snapshots)
    assert snapshots.docora.row(link) == row
    # Lost once too often, it fails.
    begin(snapshots, link, retry_count=4)
    lose(snapshots.docora, link)
    tidy_up(snapshots)
    assert_given_up(snapshots, link, 5)


def test_a_link_that_is_being_scanned_is_left_alone_even_without_a_trace_in_redis(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=3, retry_base_delay_ms=0)
    with held_worker(snapshots, "--burst") as (gate, worker):
        before = snapshots.docora.row(link)
        snapshots.docora.redis.flushdb()
        assert "left behind" not in snapshots.work().stderr
        assert snapshots.docora.row(link) == before
        assert snapshots.docora.waiting() == []
        gate.release()
        worker.end()
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.received().files == upstream.contents()
    assert len(snapshots.received().requests) == 2


@pytest.mark.parametrize(("attempts", "status"), [(2, "synced"), (1, "failed")])
def test_a_job_whose_worker_was_killed_before_it_began_is_not_lost(
    snapshots: Snapshots, attempts: int, status: str
) -> None:
    link, _ = snapshots.add_queued(FILES, max_retry_attempts=attempts, retry_base_delay_ms=0)
    queue = snapshots.docora.queue
    snapshots.docora.redis.lmove(queue.key, queue.intermediate_queue_key)
    key = queue.intermediate_queue.get_first_seen_key(link.job_id)
    snapshots.docora.redis.set(key, 1)  # long ago
    assert snapshots.work().code == 0
    row = snapshots.docora.row(link)
    assert row["status"] == status
    assert not has_live_job(snapshots.docora, link)
    if status == "failed":
        assert row["last_error"].endswith("its worker was killed before it began")
