"""What is running, or may be, is looked at again a moment later, and no lock is held meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from docora_ops.actions.bulk.run import BulkRun
from docora_ops.errors import NotFoundError
from docora_ops.links import Outcome
from tests.support.docora import QUEUE, Docora
from tests.support.rows import TestLink

Arrange = Callable[[Docora, str], object]


def running(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)


def between_looks(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> list[float]:
    """Let something happen while one link's retry waits to look again; returns its waits."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        happen()

    monkeypatch.setattr("docora_ops.actions.link_change.time.sleep", sleep)
    return waits


def between_rounds(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """The same for a bulk run."""
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: happen())


Happening = Callable[[Docora, TestLink], object]


def begins_to_run(docora: Docora, link: TestLink) -> None:
    docora.start_job(link.job_id)


def begins_to_run_and_takes_the_lock(docora: Docora, link: TestLink) -> None:
    docora.redis.delete(Job.key_for(link.job_id))
    docora.hold_lock(link.job_id)


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
    assert docora.actions().retry(link).outcome is outcome
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
    assert docora.actions().retry_all().counts == {bulk_outcome: 1}
    assert docora.waiting() == [link.job_id] * jobs
    assert docora.was_reset(link) == outcome.succeeded
    assert docora.lost_links() == []


def test_a_link_that_qualifies_at_once_is_not_kept_waiting(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = between_looks(monkeypatch, lambda: None)
    docora.actions().retry(docora.add_link())
    assert waits == []


@pytest.mark.parametrize("arrange", [doubtful, running, Docora.hold_lock])
def test_no_lock_is_held_while_a_retry_waits_to_look_again(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, arrange: Arrange
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)

    def change_the_row() -> None:
        docora.connection.execute("SET lock_timeout = '1s'")
        docora.connection.execute("UPDATE app_repositories SET last_error = 'changed meanwhile'")

    waits = between_looks(monkeypatch, change_the_row)
    docora.actions().retry(link)
    assert len(waits) == 1


def test_no_lock_is_held_while_a_bulk_retry_waits_to_look_again(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arrange in (doubtful, running, Docora.hold_lock):
        arrange(docora, docora.add_link().job_id)
    looked: list[bool] = []

    def change_the_rows() -> None:
        docora.connection.execute("SET lock_timeout = '1s'")
        docora.connection.execute("UPDATE app_repositories SET retry_count = 4")
        looked.append(True)

    between_rounds(monkeypatch, change_the_rows)
    docora.actions().retry_all()
    assert looked == [True]


def test_a_link_that_is_removed_between_the_looks_is_not_found(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = docora.add_link()
    running(docora, link.job_id)
    between_looks(monkeypatch, lambda: docora.connection.execute("DELETE FROM app_repositories"))
    with pytest.raises(NotFoundError):
        docora.actions().retry(link)


def test_a_resync_goes_ahead_when_the_running_job_ends_before_the_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 3)
    running(docora, link.job_id)
    between_looks(monkeypatch, lambda: ends_well(docora, link))
    result = docora.actions().resync(link)
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
    result = docora.actions().resync_all(link.app_id)
    assert result.counts == {Outcome.REPLACED_STALE: 1}
    assert result.deliveries_cleared == 3
    assert docora.deliveries(link) == 0


def test_what_is_doubtful_only_at_the_second_look_is_looked_at_a_third_time(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends, and is queued anew and in no list: a worker may have it, or nobody."""
    link = docora.add_link()
    execution = docora.start_job(link.job_id)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        if not waits:
            execution_keys = docora.redis.keys("rq:*execution*")
            docora.redis.delete(f"rq:wip:{docora.queue.name}", *cast("list[bytes]", execution_keys))
            docora.leave_job(execution.job_id, JobStatus.QUEUED)
        waits.append(seconds)

    monkeypatch.setattr("docora_ops.actions.link_change.time.sleep", sleep)
    assert docora.actions().retry(link).outcome is Outcome.REPLACED_STALE
    assert len(waits) == 2
    docora.assert_sound()
