"""A running or doubtful job is looked at again a moment later, and no lock is held meanwhile."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import pytest
from rq.job import Job, JobStatus

from docora_ops.errors import NotFoundError
from docora_ops.links import Outcome
from tests.support.actions import between_looks
from tests.support.bulk_actions import BulkAction, every_bulk_action
from tests.support.docora import WIP, Docora
from tests.support.job_states import Arrange, doubtful, started
from tests.support.rows import TestLink

Happening = Callable[[Docora, TestLink], object]


def begins_to_run(docora: Docora, link: TestLink) -> None:
    docora.start_job(link.job_id)


def begins_to_run_and_takes_the_lock(docora: Docora, link: TestLink) -> None:
    docora.redis.delete(Job.key_for(link.job_id))
    docora.hold_lock(link.job_id)


def begins_and_writes_scanning(docora: Docora, link: TestLink) -> None:
    docora.start_job(link.job_id)
    docora.set_link(link, status="scanning")


def ends(job_status: JobStatus, status: str) -> Happening:
    def end(docora: Docora, link: TestLink) -> None:
        end_execution(docora)
        docora.leave_job(link.job_id, job_status)
        docora.set_link(link, status=status, last_scanned_at=datetime.now(UTC))

    return end


def end_execution(docora: Docora) -> None:
    keys = cast("list[bytes]", docora.redis.keys("rq:*execution*"))
    docora.redis.delete(WIP, *keys)


HAPPENINGS: dict[str, Happening] = {
    "nothing happens": lambda _, link: None,
    "begins to run": begins_to_run,
    "begins to run and takes the lock": begins_to_run_and_takes_the_lock,
    "begins and writes scanning": begins_and_writes_scanning,
    "ends well": ends(JobStatus.FINISHED, "synced"),
    "fails again": ends(JobStatus.FAILED, "failed"),
    "fails and may be tried again": ends(JobStatus.FINISHED, "pending_snapshot"),
    "comes back into the list": lambda docora, link: docora.redis.rpush(
        docora.queue.key, link.job_id
    ),
    "is enqueued by somebody else": lambda docora, link: docora.enqueue(link.job_id),
    "is popped once more": lambda docora, link: docora.leave_job(link.job_id, JobStatus.QUEUED),
}


REPLACED, NEW, QUEUED, RUNNING, SKIPPED = (
    Outcome.REPLACED_STALE,
    Outcome.QUEUED,
    Outcome.ALREADY_QUEUED,
    Outcome.ALREADY_RUNNING,
    Outcome.SKIPPED,
)
STORIES: list[tuple[Arrange, str, Outcome, Outcome, Outcome]] = [
    (doubtful, "nothing happens", REPLACED, REPLACED, REPLACED),
    (doubtful, "begins to run", RUNNING, RUNNING, RUNNING),
    (doubtful, "begins to run and takes the lock", RUNNING, RUNNING, RUNNING),
    (doubtful, "begins and writes scanning", RUNNING, RUNNING, RUNNING),
    (doubtful, "ends well", RUNNING, SKIPPED, SKIPPED),
    (doubtful, "fails and may be tried again", RUNNING, SKIPPED, NEW),
    (doubtful, "fails again", REPLACED, REPLACED, REPLACED),
    (doubtful, "comes back into the list", QUEUED, QUEUED, QUEUED),
    (doubtful, "is enqueued by somebody else", QUEUED, QUEUED, QUEUED),
    (doubtful, "is popped once more", RUNNING, RUNNING, RUNNING),
    (started, "nothing happens", RUNNING, RUNNING, RUNNING),
    (started, "ends well", RUNNING, SKIPPED, SKIPPED),
    (started, "fails and may be tried again", RUNNING, SKIPPED, NEW),
    (started, "fails again", REPLACED, REPLACED, REPLACED),
]
"""First look, what happens then, and the outcomes of retry, retry-all-failed and schedule."""


@pytest.mark.parametrize(
    ("arrange", "happening", "command", "outcome"),
    [
        pytest.param(
            *(arrange, happening, command, outcome),
            id=f"{'running' if arrange is started else 'doubtful'}, {happening}, {command}",
        )
        for arrange, happening, *outcomes in STORIES
        for command, outcome in zip(("retry", "retry_all", "schedule"), outcomes, strict=True)
    ],
)
def test_what_the_second_look_finds_decides(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Arrange,
    happening: str,
    command: str,
    outcome: Outcome,
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)
    waits = between_looks(monkeypatch, lambda: HAPPENINGS[happening](docora, link))
    actions = docora.actions()
    if command == "retry":
        assert actions.retry(link).outcome is outcome
    else:
        assert getattr(actions, command)().counts == {outcome: 1}
    assert len(waits) == 1
    assert docora.waiting() == [link.job_id] * outcome.succeeded
    assert docora.was_reset(link) == (outcome.succeeded and command != "schedule")


@pytest.mark.parametrize("command", ["resync", "resync_all"])
def test_a_resync_goes_ahead_when_the_running_job_ends_before_the_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    link = docora.add_link("scanning")
    docora.add_deliveries(link, 3)
    started(docora, link.job_id)
    between_looks(monkeypatch, lambda: HAPPENINGS["ends well"](docora, link))
    actions = docora.actions()
    if command == "resync":
        one = actions.resync(link)
        assert (one.outcome, one.deliveries_cleared) == (NEW, 3)
    else:
        result = actions.resync_all(link.app_id)
        assert (result.counts, result.deliveries_cleared) == ({NEW: 1}, 3)
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]
    assert docora.deliveries(link) == 0


@every_bulk_action
def test_all_doubtful_links_share_one_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, bulk: BulkAction
) -> None:
    bulk.add_links(docora, 30)
    for link in docora.links():
        doubtful(docora, link.job_id)
    waits = between_looks(monkeypatch, lambda: None)
    assert bulk.run(docora.actions(), batch_size=4).counts == {REPLACED: 30}
    assert waits == [0.01]
    docora.assert_sound()


def test_there_is_no_second_look_where_the_first_one_decides(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = between_looks(monkeypatch, lambda: None)
    docora.actions().retry(docora.add_link())
    docora.add_link()
    docora.actions().retry_all()
    assert waits == []


@pytest.mark.parametrize("command", ["retry", "retry_all"])
@pytest.mark.parametrize("arrange", [doubtful, started, Docora.hold_lock])
def test_no_lock_is_held_until_the_second_look(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, arrange: Arrange, command: str
) -> None:
    link = docora.add_link()
    arrange(docora, link.job_id)

    def change_the_row() -> None:
        docora.connection.execute("SET lock_timeout = '1s'")
        docora.connection.execute("UPDATE app_repositories SET last_error = 'changed meanwhile'")

    waits = between_looks(monkeypatch, change_the_row)
    actions = docora.actions()
    actions.retry(link) if command == "retry" else actions.retry_all()
    assert len(waits) == 1


def test_a_link_that_is_removed_between_the_looks_is_not_found(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = docora.add_link()
    started(docora, link.job_id)
    between_looks(monkeypatch, lambda: docora.connection.execute("DELETE FROM app_repositories"))
    with pytest.raises(NotFoundError):
        docora.actions().retry(link)


def test_what_is_doubtful_only_at_the_second_look_is_looked_at_a_third_time(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends, and is queued anew and in no list: a worker may have it, or nobody."""
    link = docora.add_link()
    started(docora, link.job_id)

    def be_queued_anew() -> None:
        if len(waits) == 1:
            end_execution(docora)
            doubtful(docora, link.job_id)

    waits = between_looks(monkeypatch, be_queued_anew)
    assert docora.actions().retry(link).outcome is Outcome.REPLACED_STALE
    assert len(waits) == 2
    docora.assert_sound()
