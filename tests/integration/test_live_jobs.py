"""A job that somebody will run, or is running, is never replaced and never doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from rq.job import Job, JobStatus
from rq.rate_limit import RateLimit
from rq.registry import ReadyJobRegistry, StartedJobRegistry
from rq.utils import now

from docora_ops.errors import SnapshotRunningError
from docora_ops.models import Outcome
from tests.harness import QUEUE, Docora
from tests.rows import TestLink

OTHER_QUEUE = "other-queue"

Arrange = Callable[[Docora, str], object]


def enqueued(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)


def enqueued_with_a_ttl(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.expire(Job.key_for(job_id), 300)


def enqueued_over_a_failed_job(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.redis.expire(Job.key_for(job_id), 300)
    docora.enqueue(job_id)


def in_the_list_though_it_reads_failed(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id).set_status(JobStatus.FAILED)


def in_the_list_though_its_old_execution_has_expired(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id, heartbeat=-30)
    docora.enqueue(job_id)


def in_the_hand_of_a_worker(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.lmove(docora.queue.key, f"{docora.queue.key}:intermediate", "RIGHT", "LEFT")


def on_another_queue(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.lrem(docora.queue.key, 0, job_id)
    docora.redis.hset(Job.key_for(job_id), "origin", OTHER_QUEUE)
    docora.redis.rpush(f"rq:queue:{OTHER_QUEUE}", job_id)


def scheduled(docora: Docora, job_id: str) -> None:
    docora.schedule_job(job_id)


def scheduled_with_a_ttl(docora: Docora, job_id: str) -> None:
    docora.schedule_job(job_id)
    docora.redis.expire(Job.key_for(job_id), 300)


def to_be_tried_again_after_a_failure(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.schedule_job(job_id)


def deferred(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.DEFERRED)


def ready_to_enqueue(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.READY_TO_ENQUEUE)
    ready = ReadyJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zadd(ready, {job_id: now().timestamp()})


def rate_limited(docora: Docora, job_id: str) -> None:
    limit = RateLimit("github", 1)
    docora.enqueue("holds-the-slot", rate_limit=limit)
    job = docora.enqueue(job_id, rate_limit=limit)
    assert job.get_status() == JobStatus.RATE_LIMITED
    docora.redis.expire(Job.key_for(job_id), 300)


WAITING: dict[str, Arrange] = {
    "enqueued": enqueued,
    "enqueued with a time to live": enqueued_with_a_ttl,
    "enqueued over a failed job": enqueued_over_a_failed_job,
    "enqueued, reads failed": in_the_list_though_it_reads_failed,
    "enqueued, old execution expired": in_the_list_though_its_old_execution_has_expired,
    "in the hand of a worker": in_the_hand_of_a_worker,
    "on another queue": on_another_queue,
    "scheduled": scheduled,
    "scheduled with a time to live": scheduled_with_a_ttl,
    "to be tried again after a failure": to_be_tried_again_after_a_failure,
    "deferred": deferred,
    "ready to enqueue": ready_to_enqueue,
    "rate limited": rate_limited,
}
every_waiting = pytest.mark.parametrize("arrange", WAITING.values(), ids=WAITING.keys())


def running(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)


def running_and_enqueued_again(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)
    docora.enqueue(job_id)


def running_while_another_execution_has_expired(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id, heartbeat=-30)
    docora.start_job(job_id)


def running_and_in_no_wip_registry(docora: Docora, job_id: str) -> None:
    """As RQ leaves it when a worker was paused for longer than its heartbeat, then went on."""
    execution = docora.start_job(job_id)
    wip = StartedJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zrem(wip, execution.composite_key)


def running_and_marked_failed(docora: Docora, job_id: str) -> None:
    running_and_in_no_wip_registry(docora, job_id)
    Job.fetch(job_id, connection=docora.redis).set_status(JobStatus.FAILED)


def running_though_its_hash_was_deleted(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)
    docora.redis.delete(Job.key_for(job_id))


def running_from_another_queue(docora: Docora, job_id: str) -> None:
    execution = docora.start_job(job_id)
    docora.redis.hset(Job.key_for(job_id), "origin", OTHER_QUEUE)
    ours, theirs = (
        StartedJobRegistry(name, connection=docora.redis).key for name in (QUEUE, OTHER_QUEUE)
    )
    docora.redis.zrem(ours, execution.composite_key)
    docora.redis.zadd(theirs, {execution.composite_key: now().timestamp() + 60})
    docora.redis.delete(execution.key)


def locked_with_a_failed_job(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.hold_lock(job_id)


def locked_with_a_waiting_job(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.hold_lock(job_id)


RUNNING: dict[str, Arrange] = {
    "running": running,
    "running and enqueued again": running_and_enqueued_again,
    "running, another execution expired": running_while_another_execution_has_expired,
    "running, in no wip registry": running_and_in_no_wip_registry,
    "running, marked failed": running_and_marked_failed,
    "running, hash deleted": running_though_its_hash_was_deleted,
    "running from another queue": running_from_another_queue,
    "locked": Docora.hold_lock,
    "locked, job failed": locked_with_a_failed_job,
    "locked, job waiting": locked_with_a_waiting_job,
}
every_running = pytest.mark.parametrize("arrange", RUNNING.values(), ids=RUNNING.keys())


def in_redis(docora: Docora) -> dict[bytes, bytes | None]:
    """The jobs and where they stand, without times to live."""
    keys = sorted(cast("list[bytes]", docora.redis.keys("rq:*")))
    return {key: docora.redis.dump(key) for key in keys if key != b"rq:queues"}


def permanent(docora: Docora) -> set[bytes]:
    """The keys that have no time to live."""
    keys = cast("list[bytes]", docora.redis.keys())
    return {key for key in keys if docora.redis.ttl(key) == -1}


def assert_kept(docora: Docora, link: TestLink, before: dict[bytes, bytes | None]) -> None:
    assert in_redis(docora) == before
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1


@every_waiting
def test_a_retry_keeps_a_waiting_job_for_good(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    before = in_redis(docora)
    assert docora.rooms().retry(link).outcome is Outcome.ALREADY_QUEUED
    assert_kept(docora, link, before)
    assert docora.was_reset(link)


@every_waiting
def test_a_resync_keeps_a_waiting_job_for_good(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link("synced")
    docora.add_deliveries(link, 2)
    arrange(docora, link.job_id)
    before = in_redis(docora)
    result = docora.rooms().resync(link)
    assert (result.outcome, result.deliveries_cleared) == (Outcome.ALREADY_QUEUED, 2)
    assert_kept(docora, link, before)
    assert docora.was_reset(link)
    assert docora.deliveries(link) == 0


@every_waiting
def test_a_bulk_retry_keeps_a_waiting_job_for_good(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    before = in_redis(docora)
    assert docora.rooms().retry_all().counts == {Outcome.ALREADY_QUEUED: 1}
    assert_kept(docora, link, before)
    assert docora.was_reset(link)


@every_waiting
def test_a_schedule_keeps_a_waiting_job_for_good(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link("synced")
    arrange(docora, link.job_id)
    row, before = docora.row(link), in_redis(docora)
    assert docora.rooms().schedule().counts == {Outcome.ALREADY_QUEUED: 1}
    assert_kept(docora, link, before)
    assert docora.row(link) == row


@every_running
def test_a_retry_leaves_a_running_job_and_its_link_alone(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    row, before = docora.row(link), in_redis(docora)
    assert docora.rooms().retry(link).outcome is Outcome.ALREADY_RUNNING
    assert docora.row(link) == row
    assert in_redis(docora) == before


@every_running
def test_a_resync_refuses_while_a_job_runs_and_keeps_the_deliveries(
    docora: Docora, arrange: Arrange
) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 4)
    arrange(docora, link.job_id)
    row, before = docora.row(link), in_redis(docora)
    with pytest.raises(SnapshotRunningError) as refusal:
        docora.rooms().resync(link)
    assert refusal.value.details == {"status": "scanning", "job": "running"}
    assert docora.row(link) == row
    assert docora.deliveries(link) == 4
    assert in_redis(docora) == before


@every_running
def test_a_bulk_retry_leaves_a_running_job_and_its_link_alone(
    docora: Docora, arrange: Arrange
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    row, before = docora.row(link), in_redis(docora)
    assert docora.rooms().retry_all().counts == {Outcome.ALREADY_RUNNING: 1}
    assert docora.row(link) == row
    assert in_redis(docora) == before


@every_running
def test_a_schedule_leaves_a_running_job_alone(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link("pending_snapshot")
    arrange(docora, link.job_id)
    before = in_redis(docora)
    result = docora.rooms().schedule()
    assert (result.counts, result.failures) == ({Outcome.ALREADY_RUNNING: 1}, ())
    assert in_redis(docora) == before


@every_running
def test_a_bulk_resync_lists_a_link_whose_job_runs_and_keeps_its_deliveries(
    docora: Docora, arrange: Arrange
) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 4)
    arrange(docora, link.job_id)
    result = docora.rooms().resync_all(link.app_id)
    assert result.counts == {Outcome.ALREADY_RUNNING: 1}
    assert [failure.job_id for failure in result.failures] == [link.job_id]
    assert "running" in result.failures[0].error
    assert docora.status(link) == "scanning"
    assert docora.deliveries(link) == 4


@pytest.mark.parametrize(
    ("arrange", "outcome"),
    [
        *((arrange, Outcome.ALREADY_QUEUED) for arrange in WAITING.values()),
        *((arrange, Outcome.ALREADY_RUNNING) for arrange in RUNNING.values()),
    ],
    ids=[*WAITING, *RUNNING],
)
def test_a_dry_run_says_so_and_changes_nothing(
    docora: Docora, arrange: Arrange, outcome: Outcome
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    before = docora.dump(), permanent(docora)
    rooms = docora.rooms()
    assert rooms.retry(link, dry_run=True).outcome is outcome
    assert rooms.retry_all(dry_run=True).counts == {outcome: 1}
    assert (docora.dump(), permanent(docora)) == before


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_a_bulk_retry_meets_live_jobs_of_all_kinds_at_once(docora: Docora, batch_size: int) -> None:
    waiting, at_work = [], []
    for arrange in WAITING.values():
        waiting.append(docora.add_link())
        arrange(docora, waiting[-1].job_id)
    for arrange in RUNNING.values():
        at_work.append(docora.add_link())
        arrange(docora, at_work[-1].job_id)
    before = in_redis(docora)
    result = docora.rooms().retry_all(batch_size=batch_size)
    assert result.counts == {
        Outcome.ALREADY_QUEUED: len(WAITING),
        Outcome.ALREADY_RUNNING: len(RUNNING),
    }
    assert in_redis(docora) == before
    assert all(docora.was_reset(link) for link in waiting)
    assert {docora.status(link) for link in at_work} == {"failed"}


# --front


def test_front_pushes_a_new_job_to_the_head(docora: Docora) -> None:
    for job_id in ("first", "second"):
        docora.enqueue(job_id)
    link = docora.add_link()
    assert docora.rooms().retry(link, front=True).outcome is Outcome.QUEUED
    assert docora.waiting() == [link.job_id, "first", "second"]


@pytest.mark.parametrize("ttl", [None, 300])
def test_front_moves_a_waiting_job_to_the_head(docora: Docora, ttl: int | None) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    if ttl:
        docora.redis.expire(Job.key_for(link.job_id), ttl)
    before = docora.job_hash(link.job_id)
    assert docora.rooms().retry(link, front=True).outcome is Outcome.ALREADY_QUEUED
    assert docora.waiting() == [link.job_id, "first", "last"]
    assert docora.job_hash(link.job_id) == before
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1


def test_without_front_a_waiting_job_keeps_its_place(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    docora.rooms().retry(link)
    assert docora.waiting() == ["first", link.job_id, "last"]


def test_front_moves_a_revived_job_to_the_head(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in ("first", link.job_id, "last"):
        docora.enqueue(job_id)
    docora.redis.delete(Job.key_for(link.job_id))
    assert docora.rooms().retry(link, front=True).outcome is Outcome.REPLACED_STALE
    assert docora.waiting() == [link.job_id, "first", "last"]


def test_front_leaves_one_place_of_a_job_that_was_enqueued_twice(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in (link.job_id, "middle", link.job_id):
        docora.enqueue(job_id)
    docora.rooms().retry(link, front=True)
    assert docora.waiting() == [link.job_id, "middle"]


def test_front_does_not_bring_a_scheduled_job_forward(docora: Docora) -> None:
    link = docora.add_link()
    scheduled(docora, link.job_id)
    docora.enqueue("first")
    assert docora.rooms().retry(link, front=True).outcome is Outcome.ALREADY_QUEUED
    assert docora.waiting() == ["first"]
    assert docora.registries(link.job_id) == {f"rq:scheduled:{QUEUE}"}


@pytest.mark.parametrize("arrange", [in_the_hand_of_a_worker, on_another_queue])
def test_front_does_not_double_a_job_that_waits_elsewhere(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    docora.enqueue("first")
    docora.rooms().retry(link, front=True)
    assert docora.waiting() == ["first"]
