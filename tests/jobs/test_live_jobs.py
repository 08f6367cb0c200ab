"""A job that somebody will run, or is running, is never replaced and never doubled."""

from __future__ import annotations

from typing import cast

import pytest
from rq.job import Job

from docora_ops.errors import SnapshotRunningError
from docora_ops.links import Outcome
from tests.support.docora import Docora
from tests.support.live_jobs import RUNNING, WAITING, Arrange, every_running, every_waiting
from tests.support.rows import TestLink


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
    assert docora.actions().retry(link).outcome is Outcome.ALREADY_QUEUED
    assert_kept(docora, link, before)
    assert docora.was_reset(link)


@every_waiting
def test_a_resync_keeps_a_waiting_job_for_good(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link("synced")
    docora.add_deliveries(link, 2)
    arrange(docora, link.job_id)
    before = in_redis(docora)
    result = docora.actions().resync(link)
    assert (result.outcome, result.deliveries_cleared) == (Outcome.ALREADY_QUEUED, 2)
    assert_kept(docora, link, before)
    assert docora.was_reset(link)
    assert docora.deliveries(link) == 0


@every_waiting
def test_a_bulk_retry_keeps_a_waiting_job_for_good(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    before = in_redis(docora)
    assert docora.actions().retry_all().counts == {Outcome.ALREADY_QUEUED: 1}
    assert_kept(docora, link, before)
    assert docora.was_reset(link)


@every_waiting
def test_a_schedule_keeps_a_waiting_job_for_good(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link("synced")
    arrange(docora, link.job_id)
    row, before = docora.row(link), in_redis(docora)
    assert docora.actions().schedule().counts == {Outcome.ALREADY_QUEUED: 1}
    assert_kept(docora, link, before)
    assert docora.row(link) == row


@every_running
def test_a_retry_leaves_a_running_job_and_its_link_alone(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    row, before = docora.row(link), in_redis(docora)
    assert docora.actions().retry(link).outcome is Outcome.ALREADY_RUNNING
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
        docora.actions().resync(link)
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
    assert docora.actions().retry_all().counts == {Outcome.ALREADY_RUNNING: 1}
    assert docora.row(link) == row
    assert in_redis(docora) == before


@every_running
def test_a_schedule_leaves_a_running_job_alone(docora: Docora, arrange: Arrange) -> None:
    link = docora.add_link("pending_snapshot")
    arrange(docora, link.job_id)
    before = in_redis(docora)
    result = docora.actions().schedule()
    assert (result.counts, result.failures) == ({Outcome.ALREADY_RUNNING: 1}, ())
    assert in_redis(docora) == before


@every_running
def test_a_bulk_resync_lists_a_link_whose_job_runs_and_keeps_its_deliveries(
    docora: Docora, arrange: Arrange
) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 4)
    arrange(docora, link.job_id)
    result = docora.actions().resync_all(link.app_id)
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
    actions = docora.actions()
    assert actions.retry(link, dry_run=True).outcome is outcome
    assert actions.retry_all(dry_run=True).counts == {outcome: 1}
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
    result = docora.actions().retry_all(batch_size=batch_size)
    assert result.counts == {
        Outcome.ALREADY_QUEUED: len(WAITING),
        Outcome.ALREADY_RUNNING: len(RUNNING),
    }
    assert in_redis(docora) == before
    assert all(docora.was_reset(link) for link in waiting)
    assert {docora.status(link) for link in at_work} == {"failed"}
