"""A job that somebody will run, or is running, is never replaced and never doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus
from rq.rate_limit import RateLimit
from rq.registry import ReadyJobRegistry, StartedJobRegistry
from rq.utils import now

from docora_ops.actions import bulk, single
from docora_ops.actions.bulk import BulkRun
from docora_ops.errors import NotFailedError, NotFoundError, SnapshotRunningError
from docora_ops.models import Outcome
from tests.harness import QUEUE, Docora, TestLink

OTHER_QUEUE = "other-queue"

Arrange = Callable[[Docora, str], object]


@pytest.fixture(autouse=True)
def second_look_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "SECOND_LOOK_DELAY", 0.05)
    monkeypatch.setattr(bulk, "SECOND_LOOK_DELAY", 0.05)


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


def hold_lock(docora: Docora, job_id: str) -> None:
    """As a worker does for the whole job."""
    docora.connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (job_id,))


def locked_with_a_failed_job(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    hold_lock(docora, job_id)


def locked_with_a_waiting_job(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    hold_lock(docora, job_id)


RUNNING: dict[str, Arrange] = {
    "running": running,
    "running and enqueued again": running_and_enqueued_again,
    "running, another execution expired": running_while_another_execution_has_expired,
    "running, in no wip registry": running_and_in_no_wip_registry,
    "running, marked failed": running_and_marked_failed,
    "running, hash deleted": running_though_its_hash_was_deleted,
    "running from another queue": running_from_another_queue,
    "locked": hold_lock,
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


# The second look


def between_looks(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> list[float]:
    """Let something happen while one link's retry waits to look again; returns its waits."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        happen()

    monkeypatch.setattr("docora_ops.actions.single.time.sleep", sleep)
    return waits


def between_rounds(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """The same for a bulk run."""
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: happen())


Happening = Callable[[Docora, TestLink], object]


def begins_to_run(docora: Docora, link: TestLink) -> None:
    docora.start_job(link.job_id)


def begins_to_run_and_takes_the_lock(docora: Docora, link: TestLink) -> None:
    docora.redis.delete(Job.key_for(link.job_id))
    hold_lock(docora, link.job_id)


def ends_well(docora: Docora, link: TestLink) -> None:
    finish(docora, link, JobStatus.FINISHED, "synced")


def begins_and_writes_scanning(docora: Docora, link: TestLink) -> None:
    docora.start_job(link.job_id)
    docora.connection.execute("UPDATE app_repositories SET status = 'scanning'")


def fails_again(docora: Docora, link: TestLink) -> None:
    finish(docora, link, JobStatus.FAILED, "failed")


def comes_back_into_the_list(docora: Docora, link: TestLink) -> None:
    docora.redis.rpush(docora.queue.key, link.job_id)


def is_enqueued_by_somebody_else(docora: Docora, link: TestLink) -> None:
    docora.enqueue(link.job_id)


def is_popped_once_more(docora: Docora, link: TestLink) -> None:
    docora.leave_job(link.job_id, JobStatus.QUEUED)


def nothing_happens(docora: Docora, link: TestLink) -> None:
    pass


def finish(docora: Docora, link: TestLink, job_status: JobStatus, status: str) -> None:
    keys = cast("list[bytes]", docora.redis.keys("rq:*execution*"))
    docora.redis.delete(StartedJobRegistry(QUEUE, connection=docora.redis).key, *keys)
    docora.leave_job(link.job_id, job_status)
    docora.connection.execute("UPDATE app_repositories SET status = %s", (status,))


def doubtful(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.QUEUED)


# First look, what happens then, outcome of a single retry and of a bulk one, jobs in the list.
STORIES: list[tuple[Arrange, Happening, Outcome, Outcome, int]] = [
    (doubtful, nothing_happens, Outcome.REPLACED_STALE, Outcome.REPLACED_STALE, 1),
    (doubtful, begins_to_run, Outcome.ALREADY_RUNNING, Outcome.ALREADY_RUNNING, 0),
    (
        doubtful,
        begins_to_run_and_takes_the_lock,
        Outcome.ALREADY_RUNNING,
        Outcome.ALREADY_RUNNING,
        0,
    ),
    (doubtful, begins_and_writes_scanning, Outcome.ALREADY_RUNNING, Outcome.ALREADY_RUNNING, 0),
    (doubtful, ends_well, Outcome.ALREADY_RUNNING, Outcome.SKIPPED, 0),
    (doubtful, fails_again, Outcome.REPLACED_STALE, Outcome.REPLACED_STALE, 1),
    (doubtful, comes_back_into_the_list, Outcome.ALREADY_QUEUED, Outcome.ALREADY_QUEUED, 1),
    (doubtful, is_enqueued_by_somebody_else, Outcome.ALREADY_QUEUED, Outcome.ALREADY_QUEUED, 1),
    (doubtful, is_popped_once_more, Outcome.ALREADY_RUNNING, Outcome.ALREADY_RUNNING, 0),
    (running, nothing_happens, Outcome.ALREADY_RUNNING, Outcome.ALREADY_RUNNING, 0),
    (running, ends_well, Outcome.ALREADY_RUNNING, Outcome.SKIPPED, 0),
    (running, fails_again, Outcome.REPLACED_STALE, Outcome.REPLACED_STALE, 1),
]
every_story = pytest.mark.parametrize(
    ("arrange", "happening", "outcome", "bulk_outcome", "jobs"),
    STORIES,
    ids=[f"{story[0].__name__}, {story[1].__name__}" for story in STORIES],
)


@every_story
def test_a_retry_believes_its_second_look(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Arrange,
    happening: Happening,
    outcome: Outcome,
    bulk_outcome: Outcome,
    jobs: int,
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    waits = between_looks(monkeypatch, lambda: happening(docora, link))
    assert docora.rooms().retry(link).outcome is outcome
    assert len(waits) == 1
    assert docora.waiting() == [link.job_id] * jobs
    assert docora.was_reset(link) == outcome.succeeded
    assert docora.lost_links() == []


@every_story
def test_a_bulk_retry_believes_its_second_look(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Arrange,
    happening: Happening,
    outcome: Outcome,
    bulk_outcome: Outcome,
    jobs: int,
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    between_rounds(monkeypatch, lambda: happening(docora, link))
    assert docora.rooms().retry_all().counts == {bulk_outcome: 1}
    assert docora.waiting() == [link.job_id] * jobs
    assert docora.was_reset(link) == outcome.succeeded
    assert docora.lost_links() == []


def test_a_link_that_qualifies_at_once_is_not_kept_waiting(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = between_looks(monkeypatch, lambda: None)
    docora.rooms().retry(docora.add_link())
    assert waits == []


@pytest.mark.parametrize("arrange", [doubtful, running, hold_lock])
def test_no_lock_is_held_while_a_retry_waits_to_look_again(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, arrange: Arrange
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)

    def change_the_row() -> None:
        docora.connection.execute("SET lock_timeout = '1s'")
        docora.connection.execute("UPDATE app_repositories SET last_error = 'changed meanwhile'")

    waits = between_looks(monkeypatch, change_the_row)
    docora.rooms().retry(link)
    assert len(waits) == 1


def test_no_lock_is_held_while_a_bulk_retry_waits_to_look_again(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arrange in (doubtful, running, hold_lock):
        arrange(docora, docora.add_link().job_id)
    looked: list[bool] = []

    def change_the_rows() -> None:
        docora.connection.execute("SET lock_timeout = '1s'")
        docora.connection.execute("UPDATE app_repositories SET retry_count = 4")
        looked.append(True)

    between_rounds(monkeypatch, change_the_rows)
    docora.rooms().retry_all()
    assert looked == [True]


def test_a_link_that_is_removed_between_the_looks_is_not_found(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = docora.add_link()
    running(docora, link.job_id)
    between_looks(monkeypatch, lambda: docora.connection.execute("DELETE FROM app_repositories"))
    with pytest.raises(NotFoundError):
        docora.rooms().retry(link)


def test_a_resync_goes_ahead_when_the_running_job_ends_before_the_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 3)
    running(docora, link.job_id)
    between_looks(monkeypatch, lambda: ends_well(docora, link))
    result = docora.rooms().resync(link)
    assert (result.outcome, result.deliveries_cleared) == (Outcome.REPLACED_STALE, 3)
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]


def test_a_bulk_resync_tries_running_links_once_more_at_the_end(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 3)
    running(docora, link.job_id)
    between_rounds(monkeypatch, lambda: ends_well(docora, link))
    result = docora.rooms().resync_all(link.app_id)
    assert result.counts == {Outcome.REPLACED_STALE: 1}
    assert result.deliveries_cleared == 3
    assert docora.deliveries(link) == 0


# Refusals


@pytest.mark.parametrize(
    ("status", "arrange", "job", "hint"),
    [
        ("pending_snapshot", enqueued, "waiting", "nothing needs to be done"),
        ("scanning", running, "running", "wait for it to end"),
        ("synced", lambda docora, job_id: None, "none", "docora-ops resync"),
        ("synced", in_the_list_though_it_reads_failed, "waiting", "nothing needs to be done"),
        ("scanning", lambda docora, job_id: None, "none", "nobody works on it"),
        (
            "scanning",
            lambda docora, job_id: docora.leave_job(job_id, JobStatus.FAILED),
            "stale",
            "nobody works on it",
        ),
        ("pending_snapshot", lambda docora, job_id: None, "none", "docora-ops resync"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_link_that_has_not_failed_is_refused_with_what_helps(
    docora: Docora, status: str, arrange: Arrange, job: str, hint: str, dry_run: bool
) -> None:
    link = docora.add_link(status)
    arrange(docora, link.job_id)
    before = docora.dump()
    with pytest.raises(NotFailedError) as refusal:
        docora.rooms().retry(link, dry_run=dry_run)
    assert refusal.value.details == {"status": status, "job": job}
    assert hint in (refusal.value.hint or "")
    assert "Only failed entries can be retried" in refusal.value.message
    assert docora.dump() == before


def test_reset_circuit_closes_the_circuit_together_with_the_retry(docora: Docora) -> None:
    app_id = docora.add_app()
    link = docora.link(app_id, docora.add_repository(circuit_open_for=timedelta(minutes=20)))
    kept = docora.rooms().retry(link, dry_run=True)
    assert kept.circuit_open_until is not None
    result = docora.rooms().retry(link, reset_circuit=True)
    assert (result.circuit_reset, result.circuit_open_until) == (True, None)
    row: Any = docora.connection.execute("SELECT * FROM repositories").fetchone()
    assert (row["consecutive_failures"], row["circuit_open_until"]) == (0, None)


@pytest.mark.parametrize("arrange", [running, hold_lock])
def test_the_circuit_of_a_running_link_stays_open(docora: Docora, arrange: Arrange) -> None:
    app_id = docora.add_app()
    link = docora.link(app_id, docora.add_repository(circuit_open_for=timedelta(minutes=20)))
    arrange(docora, link.job_id)
    result = docora.rooms().retry(link, reset_circuit=True)
    assert (result.circuit_reset, result.circuit_open_until is None) == (False, False)
    row: Any = docora.connection.execute("SELECT * FROM repositories").fetchone()
    assert row["consecutive_failures"] == 5


def test_threads_that_retry_one_link_at_once_leave_one_job(docora: Docora) -> None:
    link = docora.add_link()
    many = [docora.rooms() for _ in range(8)]
    outcomes: list[object] = []
    start = threading.Barrier(len(many))

    def attempt(index: int) -> None:
        start.wait()
        try:
            outcomes.append(many[index].retry(link).outcome)
        except NotFailedError as error:
            outcomes.append(error.details["job"])

    threads = [threading.Thread(target=attempt, args=(index,)) for index in range(len(many))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["queued"] + ["waiting"] * 7
    assert docora.waiting() == [link.job_id]
