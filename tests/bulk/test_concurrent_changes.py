"""Links that change, are locked or get a job while a bulk action runs."""

from collections import Counter
from typing import Any

import psycopg
import pytest
from rq.job import Job, JobStatus

from docora_ops.actions import BulkStep
from docora_ops.links import Outcome
from tests.support.bulk_actions import RESYNC, RETRY, SCHEDULE, BulkAction
from tests.support.docora import Docora
from tests.support.job_states import not_in_the_list
from tests.support.row_locks import released_when_waited_for, row_locks

LINK = "UPDATE app_repositories SET"
REPOSITORY = "UPDATE repositories SET circuit_open_until ="
BY_ERROR = {"errors": ["404 *", "500"], "no_error": True}
CLOSED = {"open_circuit": False}


@pytest.mark.parametrize(
    ("bulk", "before", "change", "choice", "skipped"),
    [
        (RETRY, "failed", f"{LINK} status = 'scanning'", {}, True),
        (RETRY, "failed", f"{LINK} last_error = 'HTTP 404'", BY_ERROR, True),
        (RETRY, "failed", f"{REPOSITORY} now() + interval '1 hour'", CLOSED, True),
        (RESYNC, "synced", "DELETE FROM app_repositories", {}, True),
        (SCHEDULE, "synced", f"{LINK} status = 'synced', last_scanned_at = now()", {}, True),
        (SCHEDULE, "failed", f"{LINK} status = 'pending_snapshot'", {}, False),
        (SCHEDULE, "synced", f"{REPOSITORY} now() + interval '1 hour'", {}, True),
        (SCHEDULE, "failed", f"{REPOSITORY} now() - interval '1 second'", {}, True),
    ],
)
def test_a_link_that_changes_before_its_turn_is_judged_as_it_then_is(
    docora: Docora,
    bulk: BulkAction,
    before: str,
    change: str,
    choice: dict[str, Any],
    skipped: bool,
) -> None:
    docora.add_links(6, status=before)
    last = docora.links()[-1]
    where = f" WHERE repository_id = '{last.repository_id}'"
    changed: list[Any] = []

    def prepare(_: BulkStep) -> None:
        docora.connection.execute(f"{change}{where}".encode())
        changed.extend(docora.connection.execute(f"SELECT * FROM app_repositories{where}".encode()))

    result = bulk.run(docora.actions(), batch_size=2, prepare=prepare, **choice)
    assert result.completed == result.total == 6
    if skipped:
        assert result.counts == {Outcome.QUEUED: 5, Outcome.SKIPPED: 1}
        assert last.job_id not in docora.waiting()
        assert not docora.redis.exists(Job.key_for(last.job_id))
        assert changed == [docora.row(last) for _ in changed]
    else:
        assert result.counts == {Outcome.QUEUED: 6}
        assert docora.job(last).kwargs["is_rescan"] is False


# Jobs that others make or take


@pytest.mark.parametrize(
    ("bulk", "outcome"),
    [
        (RETRY, Outcome.ALREADY_RUNNING),
        (RETRY, Outcome.REPLACED_STALE),
        (SCHEDULE, Outcome.ALREADY_RUNNING),
    ],
)
def test_a_job_that_a_worker_takes_after_the_look_changes_only_its_own_link(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, bulk: BulkAction, outcome: Outcome
) -> None:
    bulk.add_links(docora, 5)
    links = docora.links()
    taken = links[2]
    row = docora.row(taken)
    actions = docora.actions()
    push = actions.queue.push
    refused: list[str] = []

    def take_one_then_push(*arguments: Any, **options: Any) -> Any:
        if not refused:
            if outcome is Outcome.ALREADY_RUNNING:
                docora.start_job(taken.job_id)
            else:
                docora.leave_job(taken.job_id, JobStatus.FAILED)
        # No link can change between the check and the push.
        with psycopg.connect(docora.database_access.owner, autocommit=True) as other:
            other.execute("SET lock_timeout = '10ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("UPDATE app_repositories SET status = 'scanning'")
        refused.append("locked")
        return push(*arguments, **options)

    monkeypatch.setattr(actions.queue, "push", take_one_then_push)
    result = bulk.run(actions)
    assert refused
    assert result.counts == Counter([*[Outcome.QUEUED] * 4, outcome])
    queued = [link for link in links if outcome.is_put_to_work or link != taken]
    assert sorted(docora.waiting()) == [link.job_id for link in queued]
    if not outcome.is_put_to_work:
        assert docora.row(taken) == row
    assert {docora.status(link) for link in queued} == {bulk.done_status}
    docora.assert_sound()


# Rows that others hold


@pytest.mark.parametrize(
    ("bulk", "change", "skipped"),
    [
        *((bulk, "", False) for bulk in (RETRY, RESYNC, SCHEDULE)),
        (RETRY, "status = 'synced'", True),
        (SCHEDULE, "status = 'pending_snapshot', retry_count = 0", False),
    ],
)
def test_a_row_that_is_locked_for_a_while_is_judged_at_the_end_as_it_then_is(
    docora: Docora, bulk: BulkAction, change: str, skipped: bool
) -> None:
    bulk.add_links(docora, 6)
    first, _, _, other, *_ = docora.links()
    with row_locks(docora, first, other) as holder:
        if change:
            where = f"WHERE repository_id = '{first.repository_id}'"
            holder.execute(f"{LINK} {change} {where}".encode())
        with released_when_waited_for(docora, holder):
            result = bulk.run(docora.actions(lock_timeout=60, statement_timeout=90), batch_size=2)
    last = Outcome.SKIPPED if skipped else Outcome.QUEUED
    assert result.counts == Counter([Outcome.QUEUED] * 5 + [last])
    held = [other] if skipped else [first, other]
    assert {link.job_id for link in held} == {*docora.waiting()[4:]}
    if skipped:
        assert docora.status(first) == "synced"
    else:
        is_rescan = bulk is not RESYNC and not change
        assert docora.job(first).kwargs["is_rescan"] is is_rescan
    if not change:
        assert docora.statuses() == {bulk.done_status: 6}
    docora.assert_sound()


def test_rows_that_stay_locked_fail_after_one_wait_and_the_others_go_on(docora: Docora) -> None:
    docora.add_links(16)
    held = docora.links()[5:]
    rows = [docora.row(link) for link in held]
    with row_locks(docora, *held):
        actions = docora.actions(lock_timeout=2, statement_timeout=1)
        result = actions.retry_all(batch_size=2)
    assert result.counts == {Outcome.QUEUED: 5, Outcome.NOT_QUEUED: 11}
    assert [failure.job_id for failure in result.failures] == [link.job_id for link in held]
    first, *others = (failure.error_message for failure in result.failures)
    assert "another session has held a lock for over" in first
    assert set(others) == {"another session holds a lock on its row"}
    assert [docora.row(link) for link in held] == rows


@pytest.mark.parametrize(
    ("bulk", "is_lost", "another_waits"),
    [(RETRY, False, False), (SCHEDULE, True, False), (RETRY, True, True)],
)
def test_a_job_that_waits_is_judged_though_its_links_row_was_locked(
    docora: Docora, bulk: BulkAction, *, is_lost: bool, another_waits: bool
) -> None:
    bulk.add_links(docora, 3)
    held, another, _ = docora.links()
    docora.enqueue(held.job_id)
    if is_lost:
        not_in_the_list(docora, held.job_id)
    if another_waits:
        docora.enqueue(another.job_id)
    actions = docora.actions(drift_grace=0, lock_timeout=60, statement_timeout=90)
    with row_locks(docora, held) as holder, released_when_waited_for(docora, holder):
        result = bulk.run(actions)
    outcomes = [
        Outcome.REPLACED_STALE if is_lost else Outcome.ALREADY_QUEUED,
        Outcome.ALREADY_QUEUED if another_waits else Outcome.QUEUED,
        Outcome.QUEUED,
    ]
    assert result.counts == Counter(outcomes)
    assert sorted(docora.waiting()) == [link.job_id for link in docora.links()]
    assert docora.statuses() == {bulk.done_status: 3}
    docora.assert_sound()
