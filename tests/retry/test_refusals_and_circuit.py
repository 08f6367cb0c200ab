"""Retry of one link: when it is refused, and what goes with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from rq.job import JobStatus

from docora_ops.errors import NotFailedError
from tests.support.docora import Docora

Arrange = Callable[[Docora, str], object]


def enqueued(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id)


def in_the_list_though_it_reads_failed(docora: Docora, job_id: str) -> None:
    docora.enqueue(job_id).set_status(JobStatus.FAILED)


def running(docora: Docora, job_id: str) -> None:
    docora.start_job(job_id)


@pytest.mark.parametrize(
    ("status", "arrange", "job", "hint"),
    [
        ("pending_snapshot", enqueued, "waiting", "nothing needs to be done"),
        ("scanning", running, "running", "wait for it to end"),
        ("scanning", Docora.hold_lock, "running", "wait for it to end"),
        ("synced", lambda docora, job_id: None, "none", "docora-ops resync"),
        ("synced", in_the_list_though_it_reads_failed, "waiting", "nothing needs to be done"),
        ("scanning", lambda docora, job_id: None, "none", "nobody works on it"),
        (
            "scanning",
            lambda docora, job_id: docora.leave_job(job_id, JobStatus.FAILED),
            "stale",
            "nobody works on it",
        ),
        ("pending_snapshot", lambda docora, job_id: None, "none", "docora-ops repair"),
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
        docora.actions().retry(link, dry_run=dry_run)
    assert refusal.value.details == {"status": status, "job": job}
    assert hint in (refusal.value.hint or "")
    assert "Only failed entries can be retried" in refusal.value.message
    assert docora.dump() == before


def test_reset_circuit_closes_the_circuit_together_with_the_retry(docora: Docora) -> None:
    app_id = docora.add_app()
    link = docora.link(app_id, docora.add_repository(circuit_open_for=timedelta(minutes=20)))
    kept = docora.actions().retry(link, dry_run=True)
    assert kept.circuit_open_until is not None
    result = docora.actions().retry(link, reset_circuit=True)
    assert result.circuit_open_until is None
    row: Any = docora.connection.execute("SELECT * FROM repositories").fetchone()
    assert (row["consecutive_failures"], row["circuit_open_until"]) == (0, None)


@pytest.mark.parametrize("arrange", [running, Docora.hold_lock])
def test_the_circuit_of_a_running_link_stays_open(docora: Docora, arrange: Arrange) -> None:
    app_id = docora.add_app()
    link = docora.link(app_id, docora.add_repository(circuit_open_for=timedelta(minutes=20)))
    arrange(docora, link.job_id)
    result = docora.actions().retry(link, reset_circuit=True)
    assert result.circuit_open_until is not None
    row: Any = docora.connection.execute("SELECT * FROM repositories").fetchone()
    assert row["consecutive_failures"] == 5


def test_threads_that_retry_one_link_at_once_leave_one_job(docora: Docora) -> None:
    link = docora.add_link()
    many = [docora.actions() for _ in range(8)]
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
