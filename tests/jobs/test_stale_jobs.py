"""Whatever a dead job has left behind goes when its link is queued anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus
from rq.registry import (
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result
from rq.utils import now

from docora_ops.links import Outcome
from tests.support.docora import QUEUE, Docora
from tests.support.rows import TestLink

OTHER_QUEUE = "other-queue"
INTERMEDIATE = f"rq:queue:{QUEUE}:intermediate"

Leave = Callable[[Docora, str], object]


def with_status(status: JobStatus) -> Leave:
    return lambda docora, job_id: docora.leave_job(job_id, status)


def entry_in(registry: type[Any], queue: str = QUEUE) -> Leave:
    """An id in a registry, without a hash."""

    def leave(docora: Docora, job_id: str) -> None:
        key = registry(queue, connection=docora.redis).key
        docora.redis.zadd(key, {job_id: now().timestamp() + 3600})

    return leave


def all_of(*parts: Leave) -> Leave:
    def leave(docora: Docora, job_id: str) -> None:
        for part in parts:
            part(docora, job_id)

    return leave


def expired_execution(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id, heartbeat=-30)


def expired_execution_in_the_jobs_own_registry(docora: Docora, job_id: str) -> None:
    execution = docora.start_job(job_id)
    wip = StartedJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zadd(wip, {execution.composite_key: now().timestamp() - 1})
    docora.redis.delete(execution.key)


def wip_entry_without_an_execution(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.STARTED)
    wip = StartedJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zadd(wip, {job_id: now().timestamp() - 30})


def enqueued_over_a_failed_job_and_lost(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.enqueue(job_id)
    docora.redis.lrem(docora.queue.key, 0, job_id)


def place_in_the_list_without_a_hash(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)
    docora.redis.delete(Job.key_for(job_id))


def in_the_hands_of_a_worker_that_died(docora: Docora, job_id: str) -> None:
    docora.redis.rpush(INTERMEDIATE, job_id)
    docora.redis.set(f"{INTERMEDIATE}:first_seen:{job_id}", now().timestamp(), ex=86_400)


def results(docora: Docora, job_id: str) -> None:
    job = docora.leave_job(job_id, JobStatus.FINISHED)
    Result.create(job, Result.Type.SUCCESSFUL, ttl=500, return_value="old")
    Result.create_failure(job, ttl=500, exc_string="old")


def results_only(docora: Docora, job_id: str) -> None:
    results(docora, job_id)
    docora.redis.delete(Job.key_for(job_id))
    FinishedJobRegistry(QUEUE, connection=docora.redis).remove(job_id)


def hash_that_expires_soon(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FINISHED)
    docora.redis.expire(Job.key_for(job_id), 500)


def fields_of_an_earlier_run(docora: Docora, job_id: str) -> None:
    docora.leave_job(job_id, JobStatus.FAILED)
    docora.redis.hset(
        Job.key_for(job_id),
        mapping={
            "exc_info": "old",
            "worker_name": "worker-1",
            "started_at": "2020-01-01T00:00:00.000000Z",
            "ended_at": "2020-01-01T00:00:00.000000Z",
            "number_of_retries": 4,
            "rate_limit_key": "github",
            "rate_limit_concurrency": 1,
            "enqueue_at_front": 1,
            "dependency_ids": '["gone"]',
            "meta": "old",
        },
    )
    docora.redis.sadd(f"{Job.key_for(job_id)}:dependencies", "gone")


def on_another_queue(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id, heartbeat=-30)
    docora.redis.hset(Job.key_for(job_id), "origin", OTHER_QUEUE)
    wip = StartedJobRegistry(OTHER_QUEUE, connection=docora.redis).key
    docora.redis.zadd(wip, {f"{job_id}:0123": now().timestamp() - 30})
    for registry in (FailedJobRegistry, FinishedJobRegistry):
        entry_in(registry, OTHER_QUEUE)(docora, job_id)
        entry_in(registry)(docora, job_id)
    docora.redis.hset(Job.key_for(job_id), "status", "failed")
    docora.redis.rpush(f"rq:queue:{OTHER_QUEUE}:intermediate", job_id)
    docora.redis.set(f"rq:queue:{OTHER_QUEUE}:intermediate:first_seen:{job_id}", 1)
    docora.redis.rpush(INTERMEDIATE, job_id)
    docora.redis.set(f"{INTERMEDIATE}:first_seen:{job_id}", 1)


LEFTOVERS: dict[str, Leave] = {
    "failed": with_status(JobStatus.FAILED),
    "finished": with_status(JobStatus.FINISHED),
    "stopped": with_status(JobStatus.STOPPED),
    "canceled": with_status(JobStatus.CANCELED),
    "created": with_status(JobStatus.CREATED),
    "queued, but in no list": with_status(JobStatus.QUEUED),
    "started, and no trace of it": with_status(JobStatus.STARTED),
    "started, heartbeat expired": expired_execution,
    "started, heartbeat expired, execution listed": expired_execution_in_the_jobs_own_registry,
    "started, heartbeat expired, no execution": wip_entry_without_an_execution,
    "several executions": all_of(expired_execution, expired_execution),
    "deferred, but not registered": all_of(
        with_status(JobStatus.DEFERRED),
        lambda docora, job_id: DeferredJobRegistry(QUEUE, connection=docora.redis).remove(job_id),
    ),
    "scheduled, but not registered": with_status(JobStatus.SCHEDULED),
    "rate limited, but not registered": with_status(JobStatus.RATE_LIMITED),
    "place in the list, hash gone": place_in_the_list_without_a_hash,
    "enqueued over a failed job, then lost": enqueued_over_a_failed_job_and_lost,
    "failed entry, hash gone": entry_in(FailedJobRegistry),
    "scheduled entry, hash gone": entry_in(ScheduledJobRegistry),
    "deferred entry, hash gone": entry_in(DeferredJobRegistry),
    "ready entry, hash gone": entry_in(ReadyJobRegistry),
    "deferred and ready entry of a failed job": all_of(
        with_status(JobStatus.FAILED),
        entry_in(DeferredJobRegistry),
        entry_in(ReadyJobRegistry),
    ),
    "held by a dead worker, failed": all_of(
        with_status(JobStatus.FAILED), in_the_hands_of_a_worker_that_died
    ),
    "held by a dead worker, hash gone": in_the_hands_of_a_worker_that_died,
    "results": results,
    "results, hash gone": results_only,
    "hash that expires soon": hash_that_expires_soon,
    "fields of an earlier run": fields_of_an_earlier_run,
    "dead on another queue": on_another_queue,
}
every_leftover = pytest.mark.parametrize("leave", LEFTOVERS.values(), ids=LEFTOVERS.keys())


def traces(docora: Docora, job_id: str) -> dict[str, int]:
    """Every key that is about the job, with the number of times that its value names it.

    What RQ keeps of its workers is left out: only they touch it.
    """
    found: dict[str, int] = {}
    for key in cast("list[bytes]", docora.redis.keys()):
        name = key.decode()
        if name.startswith("rq:worker:"):
            continue
        named = [member for member in members(docora, name) if member.split(":")[0] == job_id]
        if job_id in name.split(":") or named:
            found[name] = len(named)
    return found


def members(docora: Docora, key: str) -> list[str]:
    """What a list, a set or a sorted set holds."""
    match cast("bytes", docora.redis.type(key)):
        case b"list":
            values: object = docora.redis.lrange(key, 0, -1)
        case b"zset":
            values = docora.redis.zrange(key, 0, -1)
        case b"set":
            values = docora.redis.smembers(key)
        case _:
            values = []
    return [value.decode() for value in cast("list[bytes]", values)]


def assert_queued_afresh(docora: Docora, link: TestLink) -> None:
    assert traces(docora, link.job_id) == {docora.queue.key: 1, Job.key_for(link.job_id): 0}
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
    untouched = docora.add_link()
    docora.actions().retry(untouched)
    ours, other = docora.job_hash(link.job_id), docora.job_hash(untouched.job_id)
    assert ours.keys() == other.keys()
    changing = {"data", "description", "created_at", "enqueued_at"}
    assert {name for name in ours if ours[name] != other[name]} <= changing
    assert docora.job(link).kwargs["repository_id"] == link.repository_id
    assert docora.was_reset(link)


@every_leftover
def test_a_retry_replaces_it(docora: Docora, leave: Leave) -> None:
    link = docora.add_link()
    leave(docora, link.job_id)
    assert docora.actions().retry(link).outcome is Outcome.REPLACED_STALE
    assert_queued_afresh(docora, link)


@every_leftover
def test_a_resync_replaces_it(docora: Docora, leave: Leave) -> None:
    link = docora.add_link("synced")
    docora.add_deliveries(link, 3)
    leave(docora, link.job_id)
    result = docora.actions().resync(link)
    assert (result.outcome, result.deliveries_cleared) == (Outcome.REPLACED_STALE, 3)
    assert docora.job(link).kwargs["is_rescan"] is False
    assert docora.deliveries(link) == 0
    assert traces(docora, link.job_id) == {docora.queue.key: 1, Job.key_for(link.job_id): 0}


@every_leftover
def test_a_bulk_retry_replaces_it(docora: Docora, leave: Leave) -> None:
    link = docora.add_link()
    leave(docora, link.job_id)
    assert docora.actions().retry_all().counts == {Outcome.REPLACED_STALE: 1}
    assert_queued_afresh(docora, link)


@every_leftover
def test_a_schedule_replaces_it(docora: Docora, leave: Leave) -> None:
    link = docora.add_link("pending_snapshot")
    leave(docora, link.job_id)
    row = docora.row(link)
    assert docora.actions().schedule().counts == {Outcome.REPLACED_STALE: 1}
    assert docora.job(link).kwargs["is_rescan"] is False
    assert traces(docora, link.job_id) == {docora.queue.key: 1, Job.key_for(link.job_id): 0}
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
    assert docora.row(link) == row


@every_leftover
def test_a_dry_run_says_so_and_changes_nothing(docora: Docora, leave: Leave) -> None:
    link = docora.add_link()
    leave(docora, link.job_id)
    before = docora.dump(), traces(docora, link.job_id)
    actions = docora.actions()
    assert actions.retry(link, dry_run=True).outcome is Outcome.REPLACED_STALE
    assert actions.retry_all(dry_run=True).counts == {Outcome.REPLACED_STALE: 1}
    assert (docora.dump(), traces(docora, link.job_id)) == before


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_a_bulk_retry_replaces_leftovers_of_all_kinds_at_once(
    docora: Docora, batch_size: int
) -> None:
    links = []
    for leave in LEFTOVERS.values():
        links.append(docora.add_link())
        leave(docora, links[-1].job_id)
    result = docora.actions().retry_all(batch_size=batch_size)
    assert result.counts == {Outcome.REPLACED_STALE: len(links)}
    for link in links:
        assert traces(docora, link.job_id) == {docora.queue.key: 1, Job.key_for(link.job_id): 0}
        assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
    assert docora.lost_links() == []


def test_the_first_link_of_a_kind_is_queued_rather_than_replaced(docora: Docora) -> None:
    link = docora.add_link()
    assert docora.actions().retry(link).outcome is Outcome.QUEUED
    assert_queued_afresh(docora, link)


def test_a_hash_that_is_gone_is_revived_in_its_place(docora: Docora) -> None:
    link = docora.add_link()
    docora.enqueue("before")
    place_in_the_list_without_a_hash(docora, link.job_id)
    docora.enqueue("after")
    docora.actions().retry(link)
    assert docora.waiting() == ["before", link.job_id, "after"]


@pytest.mark.parametrize("command", ["retry", "resync", "retry_all"])
def test_a_hash_that_is_gone_is_not_revived_in_two_places(docora: Docora, command: str) -> None:
    link = docora.add_link()
    docora.redis.rpush(docora.queue.key, link.job_id, "between", link.job_id)
    actions = docora.actions()
    actions.retry_all() if command == "retry_all" else getattr(actions, command)(link)
    assert docora.waiting().count(link.job_id) == 1
    assert "between" in docora.waiting()
    assert docora.was_reset(link)


def test_a_bulk_retry_revives_hashes_in_their_places(docora: Docora) -> None:
    links = [docora.add_link() for _ in range(5)]
    for link in reversed(links):
        place_in_the_list_without_a_hash(docora, link.job_id)
    docora.actions().retry_all(batch_size=2)
    assert docora.waiting() == [link.job_id for link in reversed(links)]


def test_leftovers_of_other_jobs_stay(docora: Docora) -> None:
    link = docora.add_link()
    for job_id in (link.job_id, f"{link.job_id}0", link.job_id[:-1], "unrelated"):
        docora.leave_job(job_id, JobStatus.FAILED)
        in_the_hands_of_a_worker_that_died(docora, job_id)
    others = {f"{link.job_id}0", link.job_id[:-1], "unrelated"}
    before = {job_id: traces(docora, job_id) for job_id in others}
    docora.actions().retry(link)
    assert {job_id: traces(docora, job_id) for job_id in others} == before


def test_a_place_in_our_list_of_a_job_that_died_on_another_queue_is_not_doubled(
    docora: Docora,
) -> None:
    link = docora.add_link()
    docora.enqueue(link.job_id)
    on_another_queue(docora, link.job_id)
    docora.redis.rpush(docora.queue.key, link.job_id)
    docora.actions().retry(link)
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]
    assert docora.job(link).origin == QUEUE


def test_a_link_that_another_session_holds_is_left_with_its_leftovers(docora: Docora) -> None:
    link = docora.add_link()
    docora.leave_job(link.job_id, JobStatus.FAILED)
    actions = docora.actions(lock_timeout=1)
    before = traces(docora, link.job_id)
    with docora.connection.transaction():
        docora.connection.execute("SELECT FROM app_repositories FOR UPDATE")
        result = actions.retry_all()
    assert result.counts == {Outcome.FAILED: 1}
    assert traces(docora, link.job_id) == before
    assert docora.waiting() == []
