"""What becomes of a job that fails, in RQ and in its link's row."""

from __future__ import annotations

import time
from threading import Timer

import psycopg
import pytest
from rq.job import JobStatus

from docora_ops.demo.receiver import Request
from tests.support.delivery_checks import assert_in_sync, events, link_row
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots


def due(snapshots: Snapshots, link: TestLink) -> float | None:
    """When RQ is going to queue the job again."""
    key = snapshots.docora.queue.scheduled_job_registry.key
    score = snapshots.docora.redis.zscore(key, link.job_id)
    assert score is None or isinstance(score, float)
    return score


def make_due(snapshots: Snapshots, link: TestLink) -> None:
    key = snapshots.docora.queue.scheduled_job_registry.key
    snapshots.docora.redis.zadd(key, {link.job_id: 1})


def test_a_job_is_tried_again_later_and_later_and_given_up_in_the_end(
    snapshots: Snapshots,
) -> None:
    link, _ = snapshots.add_link({"a": "1", "src/b": "1"})
    snapshots.queue(link, max_retry_attempts=3, retry_base_delay_ms=20_000)
    snapshots.receiver.answer = lambda request: 500 if request.path == "src/b" else 200
    for number, delay in enumerate((20, 40), start=1):
        begun = time.time()
        assert snapshots.work(MAX_RETRY_ATTEMPTS="3").code == 0
        assert link_row(snapshots, link) == (
            "pending_snapshot",
            number,
            "HTTP 500 on created src/b",
        )
        assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED
        when = due(snapshots, link)
        assert when is not None
        assert begun + delay - 1 <= when <= time.time() + delay + 1
        make_due(snapshots, link)
    assert snapshots.work(MAX_RETRY_ATTEMPTS="3").code == 0
    assert link_row(snapshots, link) == ("failed", 3, "HTTP 500 on created src/b")
    job = snapshots.docora.job(link)
    assert job.get_status() is JobStatus.FAILED
    failed = snapshots.docora.queue.failed_job_registry.key
    assert snapshots.docora.registries(link.job_id) == {failed}
    assert due(snapshots, link) is None
    assert snapshots.docora.waiting() == []
    assert [path for _, path in events(snapshots)] == ["a", "src/b", "src/b", "src/b"]
    result = job.latest_result()
    assert result is not None
    assert result.exc_string is not None
    assert result.exc_string.rstrip().endswith("SnapshotError: HTTP 500 on created src/b")


def test_a_job_that_works_in_the_end_leaves_no_trace_of_its_failures(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1"})
    snapshots.queue(link, retry_base_delay_ms=0)
    answers = iter([500, 404, 503, 200])
    seen = []

    def answer(_: Request) -> int:
        seen.append(link_row(snapshots, link))
        return next(answers)

    snapshots.receiver.answer = answer
    snapshots.work_here()
    assert seen == [
        ("scanning", 0, None),
        ("scanning", 1, "HTTP 500 on created a"),
        ("scanning", 2, "HTTP 404 on created a"),
        ("scanning", 3, "HTTP 503 on created a"),
    ]
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.parametrize("failures", [0, 3])
def test_a_link_that_has_failed_too_often_ends_its_job_though_it_has_tries_left(
    snapshots: Snapshots, failures: int
) -> None:
    link, _ = snapshots.add_link({"a": "1"})
    snapshots.queue(link, max_retry_attempts=10, retry_base_delay_ms=0)
    snapshots.docora.connection.execute("UPDATE app_repositories SET retry_count = %s", (failures,))
    snapshots.receiver.answer = lambda _: 500
    snapshots.work_here()
    assert link_row(snapshots, link) == ("failed", 5, "HTTP 500 on created a")
    assert snapshots.docora.job(link).get_status() is JobStatus.FAILED
    assert snapshots.docora.waiting() == []
    assert len(events(snapshots)) == 5 - failures


def test_a_job_without_tries_left_makes_its_link_failed_at_once(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1"})
    snapshots.queue(link, max_retry_attempts=1)
    snapshots.receiver.answer = lambda _: 500
    snapshots.work_here()
    assert link_row(snapshots, link) == ("failed", 1, "HTTP 500 on created a")
    assert snapshots.docora.job(link).get_status() is JobStatus.FAILED


def test_a_link_that_is_retried_after_it_was_given_up_goes_on_where_it_stopped(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "1", "c": "1"})
    snapshots.queue(link, max_retry_attempts=1)
    snapshots.receiver.answer = lambda request: 500 if request.path == "b" else 200
    snapshots.work_here()
    assert snapshots.docora.status(link) == "failed"
    snapshots.receiver.answer = lambda _: 200
    assert snapshots.docora.run("retry", link.app_id, link.repository_id).code == 0
    snapshots.work_here()
    assert [path for _, path in events(snapshots)] == ["a", "b", "b", "c"]
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.parametrize("status", ["pending_snapshot", "failed", "synced"])
def test_a_job_waits_until_the_one_before_has_let_go_of_the_link(
    snapshots: Snapshots, status: str
) -> None:
    """It has said what became of it, and Postgres has not yet noticed that it is gone."""
    link, upstream = snapshots.add_link({"a": "1"}, status)
    with psycopg.connect(snapshots.docora.database_access.owner, autocommit=True) as before:
        lock = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
        before.execute(lock, (link.job_id,))
        timer = Timer(0.5, before.close)
        timer.start()
        snapshots.run_job(link)
        timer.join()
    assert_in_sync(snapshots, link, upstream)


def test_a_job_does_not_wait_for_one_that_is_at_work(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1"}, "scanning")
    snapshots.docora.hold_lock(link.job_id)
    snapshots.run_job(link)
    assert snapshots.receiver.connections == 0
    assert snapshots.docora.status(link) == "scanning"


def test_a_resynced_link_gets_every_file_once_more(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_link({"a": "1", "b": "1"})
    snapshots.run_job(link)
    assert snapshots.docora.run("resync", link.app_id, link.repository_id, "--yes").code == 0
    snapshots.work_here()
    assert events(snapshots) == [("create", "a"), ("create", "b")] * 2
    assert_in_sync(snapshots, link, upstream)
