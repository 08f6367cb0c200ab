"""Bulk operations while others are at the same links, and without their servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from rq.job import Job, JobStatus

from docora_ops.actions.bulk.run import BulkRun
from docora_ops.bulk import BulkResult
from docora_ops.errors import PostgresError, RedisError
from docora_ops.links import Outcome
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.row_locks import released_when_waited_for, row_locks


def job_ids_in_order(docora: Docora) -> list[str]:
    return [link.job_id for link in docora.links()]


def between_rounds(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let something happen between a run's first look at its links and the second."""
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: happen())


# What changes while it runs


@pytest.mark.parametrize("status", ["synced", "scanning", "pending_snapshot"])
def test_a_link_whose_status_changes_before_its_turn_is_skipped(
    docora: Docora, status: str
) -> None:
    docora.add_links(6)
    last = docora.links()[-1]

    def prepare(run: BulkRun) -> None:
        docora.connection.execute(
            "UPDATE app_repositories SET status = %s, last_error = 'new' WHERE repository_id = %s",
            (status, last.repository_id),
        )

    result = docora.actions().retry_all(batch_size=2, prepare=prepare)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
    assert result.completed == result.total
    assert (docora.status(last), docora.row(last)["last_error"]) == (status, "new")
    assert last.job_id not in docora.waiting()


@pytest.mark.parametrize(
    ("choice", "change"),
    [
        ({"error": "500"}, "UPDATE app_repositories SET last_error = 'HTTP 404'"),
        (
            {"skip_open_circuits": True},
            "UPDATE repositories SET circuit_open_until = now() + interval '1 hour'",
        ),
    ],
)
def test_a_link_that_does_not_match_any_more_when_its_turn_comes_is_skipped(
    docora: Docora, choice: dict[str, Any], change: str
) -> None:
    docora.add_links(6, last_error="HTTP 500")
    last = docora.links()[-1]

    def prepare(run: BulkRun) -> None:
        docora.connection.execute(
            f"{change} WHERE repository_id = %s".encode(), (last.repository_id,)
        )

    result = docora.actions().retry_all(batch_size=2, prepare=prepare, **choice)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
    assert docora.status(last) == "failed"
    assert last.job_id not in docora.waiting()


@pytest.mark.parametrize(("command", "status"), [("retry_all", "failed"), ("schedule", "synced")])
def test_a_link_that_is_deleted_before_its_turn_is_skipped(
    docora: Docora, command: str, status: str
) -> None:
    docora.add_links(6, status=status)
    gone = docora.links()[3]
    result = getattr(docora.actions(), command)(
        batch_size=2,
        prepare=lambda run: docora.connection.execute(
            "DELETE FROM app_repositories WHERE repository_id = %s", (gone.repository_id,)
        ),
    )
    assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
    assert gone.job_id not in docora.waiting()
    assert not docora.redis.exists(Job.key_for(gone.job_id))


def test_a_link_that_fails_after_the_choice_is_left_for_the_next_run(docora: Docora) -> None:
    docora.add_links(3)
    late = docora.links()[1]
    docora.connection.execute(
        "UPDATE app_repositories SET status = 'synced' WHERE repository_id = %s",
        (late.repository_id,),
    )
    result = docora.actions().retry_all(
        prepare=lambda run: docora.connection.execute(
            "UPDATE app_repositories SET status = 'failed'"
        )
    )
    assert result.total == result.completed == 2
    assert docora.status(late) == "failed"


def test_links_that_are_all_queued_by_somebody_else_meanwhile_are_not_doubled(
    docora: Docora,
) -> None:
    docora.add_links(20)

    def prepare(run: BulkRun) -> None:
        for link in docora.links():
            docora.enqueue(link.job_id)

    result = docora.actions().retry_all(batch_size=3, prepare=prepare)
    assert result.counts == {Outcome.ALREADY_QUEUED: 20}
    assert docora.waiting() == job_ids_in_order(docora)
    assert docora.statuses() == {"pending_snapshot": 20}


def test_a_job_that_comes_to_life_after_the_look_undoes_only_its_own_link(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(5)
    links = docora.links()
    actions = docora.actions()
    push = actions.queue.push
    once = iter([True])

    def start_one_then_push(*arguments: Any, **options: Any) -> Any:
        if next(once, False):
            docora.start_job(links[2].job_id)
        return push(*arguments, **options)

    monkeypatch.setattr(actions.queue, "push", start_one_then_push)
    result = actions.retry_all()
    assert result.counts == {Outcome.QUEUED: 4, Outcome.ALREADY_RUNNING: 1}
    assert docora.status(links[2]) == "failed"
    assert docora.row(links[2])["retry_count"] == 5
    assert sorted(docora.waiting()) == [link.job_id for link in links if link != links[2]]
    docora.assert_sound()


@pytest.mark.parametrize("after", ["runs", "ends", "fails"])
def test_a_waiting_job_that_a_worker_takes_after_the_look_is_not_doubled(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    docora.add_links(3)
    links = docora.links()
    for link in links:
        docora.enqueue(link.job_id)
    actions = docora.actions()
    push = actions.queue.push
    once = iter([True])

    def take_one_then_push(*arguments: Any, **options: Any) -> Any:
        if next(once, False):
            docora.redis.lrem(docora.queue.key, 0, links[0].job_id)
            if after == "runs":
                docora.start_job(links[0].job_id)
            else:
                docora.leave_job(
                    links[0].job_id, JobStatus.FINISHED if after == "ends" else JobStatus.FAILED
                )
        return push(*arguments, **options)

    monkeypatch.setattr(actions.queue, "push", take_one_then_push)
    result = actions.retry_all()
    if after == "runs":
        assert result.counts == {Outcome.ALREADY_QUEUED: 2, Outcome.ALREADY_RUNNING: 1}
        assert docora.status(links[0]) == "failed"
    else:
        assert result.counts == {Outcome.ALREADY_QUEUED: 2, Outcome.REPLACED_STALE: 1}
        assert docora.was_reset(links[0])
    docora.assert_sound()


def test_all_doubtful_links_share_one_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(30)
    for link in docora.links():
        docora.leave_job(link.job_id, JobStatus.QUEUED)
    pauses: list[float] = []
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: pauses.append(seconds))
    result = docora.actions().retry_all(batch_size=4)
    assert result.counts == {Outcome.REPLACED_STALE: 30}
    assert pauses == [0.01]
    docora.assert_sound()


def test_without_doubtful_links_there_is_no_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(3)
    pauses: list[float] = []
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: pauses.append(seconds))
    docora.actions().retry_all()
    assert pauses == []


# Rows that others hold


def test_a_row_that_is_locked_for_a_while_is_queued_at_the_end(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(6)
    links = docora.links()
    with row_locks(docora, links[0], links[3]) as other:
        between_rounds(monkeypatch, other.commit)
        result = docora.actions(lock_timeout=1).retry_all(batch_size=2)
    assert result.counts == {Outcome.QUEUED: 6}
    assert set(docora.waiting()[-2:]) == {links[0].job_id, links[3].job_id}
    docora.assert_sound()


def test_a_row_whose_holder_changed_it_is_skipped(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(3)
    links = docora.links()
    with row_locks(docora, links[1]) as other:
        other.execute(
            "UPDATE app_repositories SET status = 'synced' WHERE repository_id = %s",
            (links[1].repository_id,),
        )
        between_rounds(monkeypatch, other.commit)
        result = docora.actions(lock_timeout=1).retry_all()
    assert result.counts == {Outcome.QUEUED: 2, Outcome.SKIPPED: 1}
    assert docora.status(links[1]) == "synced"


def test_a_row_whose_holder_commits_while_the_run_waits_for_it_is_queued(docora: Docora) -> None:
    docora.add_links(3)
    links = docora.links()
    actions = docora.actions(lock_timeout=10)
    with row_locks(docora, links[1]) as other, released_when_waited_for(docora, other):
        result = actions.retry_all()
    assert result.counts == {Outcome.QUEUED: 3}
    assert docora.waiting()[-1] == links[1].job_id


def test_a_row_that_is_locked_for_good_fails_and_the_others_go_on(docora: Docora) -> None:
    docora.add_links(6)
    links = docora.links()
    with row_locks(docora, links[2]):
        result = docora.actions(lock_timeout=1).retry_all(batch_size=2)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == [links[2].job_id]
    assert "lock" in result.failures[0].error
    assert docora.status(links[2]) == "failed"
    assert result.completed == result.total
    docora.assert_sound()


def test_a_locked_row_fails_alone_even_if_statements_may_not_take_as_long_as_locks(
    docora: Docora,
) -> None:
    docora.add_links(3)
    links = docora.links()
    with row_locks(docora, links[0]):
        result = docora.actions(lock_timeout=5, statement_timeout=1).retry_all()
    assert result.counts == {Outcome.QUEUED: 2, Outcome.FAILED: 1}


def test_many_locked_rows_cost_one_wait_only(docora: Docora) -> None:
    docora.add_links(40)
    links = docora.links()
    actions = docora.actions(lock_timeout=1)
    with row_locks(docora, *links[10:]):
        begin = time.monotonic()
        result = actions.retry_all(batch_size=5)
        took = time.monotonic() - begin
    assert result.counts == {Outcome.QUEUED: 10, Outcome.FAILED: 30}
    assert all("lock" in failure.error for failure in result.failures)
    assert took < 4  # two batches at once, each of which may wait a second
    assert docora.statuses() == {"pending_snapshot": 10, "failed": 30}


# Servers that are lost midway


def run_until_broken(
    actions: Actions, breaking: Callable[[], object], at: int, error: type[Exception]
) -> BulkResult:
    """Run batches of two, let a server be lost when `at` links are done; what was done by then."""
    runs: list[BulkRun] = []

    def prepare(run: BulkRun) -> None:
        runs.append(run)

        def step(done: int) -> None:
            if done == at:
                breaking()

        run.on_progress = step

    with pytest.raises(error):
        actions.retry_all(batch_size=2, prepare=prepare)
    return runs[0].result()


def test_when_postgres_cuts_the_connections_the_result_says_what_was_done(docora: Docora) -> None:
    docora.add_links(30)
    actions = docora.actions()
    result = run_until_broken(
        actions,
        lambda: docora.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'docora-ops'"
        ),
        6,
        PostgresError,
    )
    # A batch that was committed just before may not have been counted any more.
    assert 6 <= result.completed <= docora.statuses()["pending_snapshot"] < 30
    docora.assert_sound()
    actions = docora.actions()
    rest = actions.retry_all()
    assert rest.failed == 0
    assert docora.statuses() == {"pending_snapshot": 30}
    docora.assert_sound()


def test_when_the_queues_key_breaks_nothing_more_is_reset(docora: Docora) -> None:
    docora.add_links(30)
    actions = docora.actions()

    def break_the_queue() -> None:
        with docora.redis.pipeline() as pipeline:
            pipeline.rename(docora.queue.key, "kept")
            pipeline.set(docora.queue.key, "not a list")
            pipeline.execute()

    result = run_until_broken(actions, break_the_queue, 6, RedisError)
    assert result.completed >= 6
    docora.redis.rename("kept", docora.queue.key)
    assert docora.statuses()["pending_snapshot"] < 30
    docora.assert_sound()
    actions.retry_all()
    assert docora.statuses() == {"pending_snapshot": 30}
    docora.assert_sound()
