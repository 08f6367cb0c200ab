"""What changes, is locked, or breaks while a pass of the schedule runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from rq.job import Job, JobStatus

from docora_ops.actions.bulk import run as bulk
from docora_ops.actions.bulk.run import BulkRun
from docora_ops.bulk import BulkResult
from docora_ops.errors import PostgresError, RedisError
from docora_ops.links import Outcome
from tests.schedule.checks import jobs, rows, set_all
from tests.support.docora import Docora
from tests.support.row_locks import released_when_waited_for, row_locks, slow_claims


@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        ("status = 'synced', last_scanned_at = now()", True),
        ("status = 'scanning'", True),
        ("status = 'archived'", True),
        ("status = 'synced', last_scanned_at = NULL", False),
        ("status = 'pending_snapshot'", False),
        ("status = 'failed'", False),
    ],
)
@pytest.mark.parametrize("before", ["pending_snapshot", "synced", "failed"])
def test_a_link_that_changes_before_its_turn_is_judged_as_it_then_is(
    docora: Docora, before: str, change: str, skipped: bool
) -> None:
    docora.add_links(6, status=before)
    last = docora.links()[-1]

    def prepare(run: BulkRun) -> None:
        set_all(docora, change, f"repository_id = '{last.repository_id}'")

    result = docora.actions().schedule(batch_size=2, prepare=prepare)
    if skipped:
        assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
        assert last.job_id not in docora.waiting()
        assert not docora.redis.exists(Job.key_for(last.job_id))
    else:
        assert result.counts == {Outcome.QUEUED: 6}
        assert jobs(docora)[last.job_id] is ("pending_snapshot" not in change)


@pytest.mark.parametrize(
    ("status", "circuit", "skipped"),
    [
        ("pending_snapshot", "now() + interval '1 hour'", True),
        ("synced", "now() + interval '1 hour'", True),
        ("failed", "now() + interval '1 hour'", True),
        ("failed", "now() - interval '1 second'", True),
        ("synced", "now() - interval '1 second'", False),
        ("pending_snapshot", "now() - interval '1 second'", False),
    ],
)
def test_a_circuit_that_opens_before_the_turn_of_its_links_holds_them_back(
    docora: Docora, status: str, circuit: str, skipped: bool
) -> None:
    docora.add_links(4, status=status)
    last = docora.links()[-1]
    result = docora.actions().schedule(
        batch_size=2,
        prepare=lambda run: docora.connection.execute(
            f"UPDATE repositories SET circuit_open_until = {circuit}"
            f" WHERE repository_id = '{last.repository_id}'".encode()
        ),
    )
    assert result.counts.get(Outcome.SKIPPED, 0) == skipped
    assert (last.job_id in docora.waiting()) is not skipped
    assert len(docora.waiting()) == 4 - skipped


def test_links_that_somebody_else_queues_meanwhile_are_not_doubled(docora: Docora) -> None:
    docora.add_links(20, status="pending_snapshot")
    job_ids = [link.job_id for link in docora.links()]

    def prepare(run: BulkRun) -> None:
        for job_id in job_ids:
            docora.enqueue(job_id)

    result = docora.actions().schedule(batch_size=3, prepare=prepare)
    assert result.counts == {Outcome.ALREADY_QUEUED: 20}
    assert docora.waiting() == job_ids


@pytest.mark.parametrize("had_job", [True, False], ids=["taken", "begun"])
def test_a_job_that_a_worker_begins_after_the_look_is_left_alone(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, had_job: bool
) -> None:
    docora.add_links(5, status="pending_snapshot")
    links = docora.links()
    if had_job:
        docora.enqueue(links[2].job_id)
    actions = docora.actions()
    push = actions.queue.push
    once = iter([True])

    def start_one_then_push(*arguments: Any, **options: Any) -> Any:
        if next(once, False):
            docora.redis.lrem(docora.queue.key, 0, links[2].job_id)
            docora.start_job(links[2].job_id)
        return push(*arguments, **options)

    monkeypatch.setattr(actions.queue, "push", start_one_then_push)
    result = actions.schedule()
    assert result.counts == {Outcome.QUEUED: 4, Outcome.ALREADY_RUNNING: 1}
    assert sorted(docora.waiting()) == [link.job_id for link in links if link != links[2]]
    assert docora.doubled_jobs() == []


def between_rounds(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let something happen between a run's first look at its links and the second."""
    monkeypatch.setattr(BulkRun, "_pause", lambda run, seconds: happen())


@pytest.mark.parametrize("kind", ["running", "doubtful"])
@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("status = 'synced', last_scanned_at = now()", Outcome.SKIPPED),
        ("status = 'failed'", Outcome.REPLACED_STALE),
        ("status = 'pending_snapshot', retry_count = 1", Outcome.REPLACED_STALE),
    ],
)
def test_a_snapshot_that_ends_before_the_second_look_leaves_its_verdict(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, kind: str, verdict: str, outcome: Outcome
) -> None:
    link = docora.add_link("pending_snapshot")
    if kind == "running":
        docora.start_job(link.job_id)
    else:
        docora.leave_job(link.job_id, JobStatus.QUEUED)

    def end() -> None:
        keys = docora.redis.keys("rq:*execution*") + docora.redis.keys("rq:wip:*")
        docora.redis.delete("none", *keys)
        docora.leave_job(link.job_id, JobStatus.FINISHED)
        set_all(docora, verdict)

    between_rounds(monkeypatch, end)
    assert docora.actions().schedule().counts == {outcome: 1}
    assert docora.waiting() == [link.job_id] * (outcome is Outcome.REPLACED_STALE)


# Rows that others hold


def test_a_row_that_is_locked_for_a_while_gets_its_job_at_the_end(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(6, status="synced")
    links = docora.links()
    with row_locks(docora, links[0], links[3]) as other:
        between_rounds(monkeypatch, other.commit)
        result = docora.actions(lock_timeout=1).schedule(batch_size=2)
    assert result.counts == {Outcome.QUEUED: 6}
    assert set(docora.waiting()[-2:]) == {links[0].job_id, links[3].job_id}
    assert docora.doubled_jobs() == []


@pytest.mark.parametrize("waited_for", [True, False])
@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        ("status = 'synced', last_scanned_at = now()", True),
        ("status = 'scanning'", True),
        ("status = 'pending_snapshot', retry_count = 0", False),
    ],
)
def test_a_row_is_judged_by_what_its_holder_made_of_it(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    skipped: bool,
    waited_for: bool,
) -> None:
    docora.add_links(3, status="failed")
    held = docora.links()[1]
    with row_locks(docora, held) as other:
        other.execute(
            f"UPDATE app_repositories SET {change} WHERE repository_id = %s".encode(),
            (held.repository_id,),
        )
        if waited_for:
            with released_when_waited_for(docora, other):
                result = docora.actions(lock_timeout=10).schedule()
        else:
            between_rounds(monkeypatch, other.commit)
            result = docora.actions(lock_timeout=1).schedule()
    if skipped:
        assert result.counts == {Outcome.QUEUED: 2, Outcome.SKIPPED: 1}
        assert held.job_id not in docora.waiting()
    else:
        assert result.counts == {Outcome.QUEUED: 3}
        assert jobs(docora)[held.job_id] is False
    assert len(docora.waiting()) == 3 - skipped


def test_a_row_that_is_locked_for_good_fails_and_the_others_go_on(docora: Docora) -> None:
    docora.add_links(6, status="synced")
    links = docora.links()
    with row_locks(docora, links[2]):
        result = docora.actions(lock_timeout=1).schedule(batch_size=2)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.FAILED: 1}
    assert [failure.job_id for failure in result.failures] == [links[2].job_id]
    assert "lock" in result.failures[0].error
    assert links[2].job_id not in docora.waiting()


def test_a_link_cannot_change_between_the_check_and_the_push(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(3, status="synced")
    actions = docora.actions()
    push = actions.queue.push
    refusals: list[str] = []

    def try_to_change_then_push(*arguments: Any, **options: Any) -> Any:
        with psycopg.connect(docora.database_access.owner, autocommit=True) as other:
            other.execute("SET lock_timeout = '10ms'")
            try:
                other.execute("UPDATE app_repositories SET status = 'scanning'")
            except psycopg.errors.LockNotAvailable:
                refusals.append("locked")
        return push(*arguments, **options)

    monkeypatch.setattr(actions.queue, "push", try_to_change_then_push)
    assert actions.schedule().counts == {Outcome.QUEUED: 3}
    assert refusals == ["locked"]


@pytest.mark.parametrize("command", ["schedule", "retry_all"])
@pytest.mark.parametrize("status", ["scanning", "synced"])
def test_a_row_that_changes_under_the_claim_is_judged_by_what_was_locked(
    docora: Docora, worker_number: int, command: str, status: str
) -> None:
    """The claim has begun, and sees the row as it was; then it finds a newer one to lock."""
    docora.add_links(3, status="failed")
    changed = docora.links()[1]
    with slow_claims(docora, worker_number) as (actions, holder):
        holder.execute(
            "UPDATE app_repositories SET status = %s, last_scanned_at = now()"
            " WHERE repository_id = %s",
            (status, changed.repository_id),
        )
        with released_when_waited_for(docora, holder):
            result = getattr(actions, command)()
    assert result.counts == {Outcome.QUEUED: 2, Outcome.SKIPPED: 1}
    assert docora.status(changed) == status
    assert changed.job_id not in docora.waiting()


# The end before the end


def test_a_stop_finishes_what_is_in_hand_and_the_next_pass_does_the_rest(docora: Docora) -> None:
    docora.add_links(40, status="synced")
    before = rows(docora)
    actions = docora.actions()

    def prepare(run: BulkRun) -> None:
        def step(done: int) -> None:
            run.stop.requested = done >= 4

        run.on_progress = step

    result = actions.schedule(batch_size=2, prepare=prepare)
    assert result.cancelled is True
    assert 4 <= result.completed <= 4 + bulk.BATCHES_IN_FLIGHT * 2
    assert len(docora.waiting()) == result.completed
    assert docora.redis.keys("docora:*") == []
    rest = actions.schedule(batch_size=2)
    assert rest.counts == {
        Outcome.ALREADY_QUEUED: result.completed,
        Outcome.QUEUED: 40 - result.completed,
    }
    assert docora.waiting() == [link.job_id for link in docora.links()]
    assert rows(docora) == before


def run_until_broken(
    docora: Docora, breaking: Callable[[], object], error: type[Exception]
) -> BulkResult:
    """Run batches of two, let a server be lost when six links are done; what was done by then."""
    runs: list[BulkRun] = []

    def prepare(run: BulkRun) -> None:
        runs.append(run)

        def step(done: int) -> None:
            if done == 6:
                breaking()

        run.on_progress = step

    with pytest.raises(error):
        docora.actions().schedule(batch_size=2, prepare=prepare)
    return runs[0].result()


def test_when_postgres_is_lost_the_result_says_what_was_done(docora: Docora) -> None:
    docora.add_links(30, status="synced")
    before = rows(docora)
    result = run_until_broken(
        docora,
        lambda: docora.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'docora-ops'"
        ),
        PostgresError,
    )
    assert 6 <= result.completed <= len(docora.waiting()) < 30
    assert docora.actions().schedule().succeeded == 30
    assert docora.waiting() == [link.job_id for link in docora.links()]
    assert rows(docora) == before


def test_when_the_queues_key_breaks_the_result_says_what_was_done(docora: Docora) -> None:
    docora.add_links(30, status="synced")

    def break_the_queue() -> None:
        with docora.redis.pipeline() as pipeline:
            pipeline.rename(docora.queue.key, "kept")
            pipeline.set(docora.queue.key, "not a list")
            pipeline.execute()

    result = run_until_broken(docora, break_the_queue, RedisError)
    docora.redis.rename("kept", docora.queue.key)
    assert 6 <= result.completed <= len(docora.waiting()) < 30
    assert docora.actions().schedule().succeeded == 30
    assert docora.doubled_jobs() == []
