"""Links that change, are locked or get a job while a bulk action runs."""

import time
from collections import Counter
from typing import Any

import psycopg
import pytest
from rq.job import Job, JobStatus

from docora_ops.actions import BulkStep
from docora_ops.links import Outcome
from tests.support.bulk_actions import RESYNC, RETRY, SCHEDULE, BulkAction, every_bulk_action
from tests.support.docora import Docora
from tests.support.row_locks import released_when_waited_for, row_locks

LINK = "UPDATE app_repositories SET"
REPOSITORY = "UPDATE repositories SET circuit_open_until ="
DELETE = "DELETE FROM app_repositories"


# Links that change before their turn


@pytest.mark.parametrize(
    ("bulk", "before", "change", "skipped"),
    [
        (RETRY, "failed", f"{LINK} status = 'scanning'", True),
        (RESYNC, "synced", DELETE, True),
        (SCHEDULE, "synced", f"{LINK} status = 'synced', last_scanned_at = now()", True),
        (SCHEDULE, "failed", f"{LINK} status = 'pending_snapshot'", False),
        (SCHEDULE, "synced", f"{REPOSITORY} now() + interval '1 hour'", True),
        (SCHEDULE, "failed", f"{REPOSITORY} now() - interval '1 second'", True),
    ],
)
def test_a_link_that_changes_before_its_turn_is_judged_as_it_then_is(
    docora: Docora, bulk: BulkAction, before: str, change: str, skipped: bool
) -> None:
    docora.add_links(6, status=before)
    last = docora.links()[-1]
    where = f" WHERE repository_id = '{last.repository_id}'"
    changed: list[Any] = []

    def prepare(_: BulkStep) -> None:
        docora.connection.execute(f"{change}{where}".encode())
        changed.extend(docora.connection.execute(f"SELECT * FROM app_repositories{where}".encode()))

    result = bulk.run(docora.actions(), batch_size=2, prepare=prepare)
    assert result.completed == result.total == 6
    if skipped:
        assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
        assert last.job_id not in docora.waiting()
        assert not docora.redis.exists(Job.key_for(last.job_id))
        assert changed == [docora.row(last) for _ in changed]
    else:
        assert result.counts == {Outcome.QUEUED: 6}
        is_rescan = docora.status(last) != "pending_snapshot"
        assert docora.job(last).kwargs["is_rescan"] is is_rescan


@pytest.mark.parametrize(
    ("choice", "change"),
    [
        ({"errors": ["404 *", "500"], "no_error": True}, f"{LINK} last_error = 'HTTP 404'"),
        ({"open_circuit": False}, f"{REPOSITORY} now() + interval '1 hour'"),
    ],
)
def test_a_link_that_does_not_match_any_more_when_its_turn_comes_is_skipped(
    docora: Docora, choice: dict[str, Any], change: str
) -> None:
    docora.add_links(6, last_error="HTTP 500")
    last = docora.links()[-1]

    def prepare(_: BulkStep) -> None:
        docora.connection.execute(
            f"{change} WHERE repository_id = %s".encode(), (last.repository_id,)
        )

    result = docora.actions().retry_all(batch_size=2, prepare=prepare, **choice)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
    assert docora.status(last) == "failed"
    assert last.job_id not in docora.waiting()


# Jobs that others make or take


@every_bulk_action
def test_links_that_are_all_queued_by_somebody_else_meanwhile_are_not_doubled(
    docora: Docora, bulk: BulkAction
) -> None:
    bulk.add_links(docora, 20)

    def prepare(_: BulkStep) -> None:
        for link in docora.links():
            docora.enqueue(link.job_id)

    result = bulk.run(docora.actions(), batch_size=3, prepare=prepare)
    assert result.counts == {Outcome.ALREADY_QUEUED: 20}
    assert docora.waiting() == [link.job_id for link in docora.links()]
    assert docora.statuses() == {bulk.done_status: 20}


@pytest.mark.parametrize("bulk", [RETRY, SCHEDULE], ids=str)
@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        (JobStatus.STARTED, Outcome.ALREADY_RUNNING),
        (JobStatus.FAILED, Outcome.REPLACED_STALE),
    ],
)
def test_a_job_that_a_worker_takes_after_the_look_changes_only_its_own_link(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    bulk: BulkAction,
    after: JobStatus,
    outcome: Outcome,
) -> None:
    bulk.add_links(docora, 5)
    links = docora.links()
    taken = links[2]
    docora.enqueue(taken.job_id)
    row = docora.row(taken)
    actions = docora.actions()
    push = actions.queue.push
    once = iter([True])

    def take_one_then_push(*arguments: Any, **options: Any) -> Any:
        if next(once, False):
            docora.redis.lrem(docora.queue.key, 0, taken.job_id)
            if after is JobStatus.STARTED:
                docora.start_job(taken.job_id)
            else:
                docora.leave_job(taken.job_id, after)
        return push(*arguments, **options)

    monkeypatch.setattr(actions.queue, "push", take_one_then_push)
    result = bulk.run(actions)
    # All is rolled back for a job that runs; those that were pushed wait by the next attempt.
    others = Outcome.QUEUED if outcome.succeeded else Outcome.ALREADY_QUEUED
    assert result.counts == Counter([*[others] * 4, outcome])
    queued = [link for link in links if outcome.succeeded or link != taken]
    assert sorted(docora.waiting()) == [link.job_id for link in queued]
    if not outcome.succeeded:
        assert docora.row(taken) == row
    assert {docora.status(link) for link in queued} == {bulk.done_status}
    docora.assert_sound()


# Rows that others hold


@every_bulk_action
def test_a_row_that_is_locked_for_a_while_is_queued_at_the_end(
    docora: Docora, bulk: BulkAction
) -> None:
    bulk.add_links(docora, 6)
    links = docora.links()
    with (
        row_locks(docora, links[0], links[3]) as other,
        released_when_waited_for(docora, other),
    ):
        result = bulk.run(docora.actions(lock_timeout=10), batch_size=2)
    assert result.counts == {Outcome.QUEUED: 6}
    assert set(docora.waiting()[-2:]) == {links[0].job_id, links[3].job_id}
    assert docora.statuses() == {bulk.done_status: 6}
    docora.assert_sound()


@pytest.mark.parametrize(
    ("bulk", "change", "skipped"),
    [
        (RETRY, "status = 'synced'", True),
        (SCHEDULE, "status = 'pending_snapshot', retry_count = 0", False),
    ],
)
def test_a_locked_row_is_judged_by_what_its_holder_made_of_it(
    docora: Docora, bulk: BulkAction, change: str, skipped: bool
) -> None:
    docora.add_links(3)
    held = docora.links()[1]
    with row_locks(docora, held) as other:
        where = f"WHERE repository_id = '{held.repository_id}'"
        other.execute(f"{LINK} {change} {where} RETURNING *".encode())
        with released_when_waited_for(docora, other):
            result = bulk.run(docora.actions(lock_timeout=10))
    last = Outcome.SKIPPED if skipped else Outcome.QUEUED
    assert result.counts == Counter([Outcome.QUEUED, Outcome.QUEUED, last])
    if skipped:
        assert docora.status(held) in change
    else:
        assert docora.job(held).kwargs["is_rescan"] is (bulk is RETRY)
    assert (held.job_id in docora.waiting()) is not skipped


def test_no_link_can_change_between_the_check_and_the_push(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    docora.add_links(3)
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
    assert actions.retry_all().counts == {Outcome.QUEUED: 3}
    assert refusals == ["locked"]


@pytest.mark.parametrize("bulk", [RETRY, SCHEDULE], ids=str)
def test_rows_that_are_locked_for_good_fail_after_one_wait_and_the_others_go_on(
    docora: Docora, bulk: BulkAction
) -> None:
    bulk.add_links(docora, 16)
    held = docora.links()[5:]
    rows = [docora.row(link) for link in held]
    with row_locks(docora, *held):
        begin = time.monotonic()
        result = bulk.run(docora.actions(lock_timeout=2, statement_timeout=1), batch_size=2)
        assert time.monotonic() - begin < 6
    assert result.counts == {Outcome.QUEUED: 5, Outcome.NOT_QUEUED: 11}
    assert [failure.job_id for failure in result.failures] == [link.job_id for link in held]
    first, *others = (failure.error_message for failure in result.failures)
    assert "another session has held a lock for over" in first
    assert set(others) == {"another session holds a lock on its row"}
    assert [docora.row(link) for link in held] == rows
