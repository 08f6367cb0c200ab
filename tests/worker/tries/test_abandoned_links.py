"""Links that are marked as being scanned: taken up again only when it is certain that nobody is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rq.job import JobStatus

from docora_ops.actions.repair.abandoned import recover_abandoned
from docora_ops.links import LinkStatus, Outcome
from tests.support.docora import Docora
from tests.support.rows import TestLink


def is_popped_once_more(docora: Docora, link: TestLink) -> None:
    docora.leave_job(link.job_id, JobStatus.QUEUED)


def begins(docora: Docora, link: TestLink) -> None:
    docora.start_job(link.job_id)


def takes_the_lock(docora: Docora, link: TestLink) -> None:
    docora.hold_lock(link.job_id)


def is_retried(docora: Docora, link: TestLink) -> None:
    docora.connection.execute("UPDATE app_repositories SET status = 'pending_snapshot'")
    docora.enqueue(link.job_id)


@pytest.mark.parametrize("happens", [is_popped_once_more, begins, takes_the_lock, is_retried])
@pytest.mark.parametrize("max_attempts", [1, 5])
def test_what_happens_between_the_looks_saves_the_link_from_a_verdict(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Docora, TestLink], None],
    max_attempts: int,
) -> None:
    link = docora.add_link("scanning", retry_count=0, last_error=None)
    docora.leave_job(link.job_id, JobStatus.QUEUED)
    after: list[object] = []

    def sleep(_: float) -> None:
        happens(docora, link)
        after.append(docora.dump())

    monkeypatch.setattr("docora_ops.actions.repair.abandoned.time.sleep", sleep)
    actions = docora.actions()
    assert recover_abandoned(actions.database, actions.queue, max_attempts) == []
    assert docora.row(link)["retry_count"] == 0
    # RQ's set of queues has the queue already, so not even that changes.
    assert [docora.dump()] == after


@pytest.mark.parametrize(
    ("max_attempts", "status"), [(1, LinkStatus.FAILED), (5, LinkStatus.PENDING_SNAPSHOT)]
)
def test_where_nothing_happens_it_gets_its_verdict(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, max_attempts: int, status: LinkStatus
) -> None:
    link = docora.add_link("scanning", retry_count=0)
    docora.leave_job(link.job_id, JobStatus.QUEUED)
    monkeypatch.setattr("docora_ops.actions.repair.abandoned.time.sleep", lambda _: None)
    actions = docora.actions()
    [recovered] = recover_abandoned(actions.database, actions.queue, max_attempts)
    is_failed = status is LinkStatus.FAILED
    assert recovered.outcome is (Outcome.FAILED if is_failed else Outcome.REPLACED_STALE)
    assert docora.status(link) == status
    assert docora.waiting() == ([] if is_failed else [link.job_id])


def test_a_worker_that_recovers_many_links_sends_a_heartbeat_before_each(docora: Docora) -> None:
    links = [docora.add_link("scanning", retry_count=0) for _ in range(3)]
    actions = docora.actions()
    done: list[int] = []
    recover_abandoned(
        actions.database, actions.queue, 5, lambda: done.append(len(docora.waiting()))
    )
    assert done == [0, 1, 2]
    assert len(docora.waiting()) == len(links)
    docora.assert_sound()
