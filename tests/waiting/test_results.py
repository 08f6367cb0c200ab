"""Following links to their results, with rows changed as any worker changes them."""

import time
from collections.abc import Callable, Sequence

import pytest

from docora_ops.actions import snapshot_results
from docora_ops.actions.change import LinkOutcome
from docora_ops.actions.snapshot_results import Following
from docora_ops.database.link_reports import SnapshotResult
from docora_ops.links import Outcome
from docora_ops.operations import BulkWait
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink


def follow(actions: Actions, *links: TestLink, outcome: Outcome = Outcome.QUEUED) -> Following:
    followed = Following(actions.docora)
    for link in links:
        followed.add([LinkOutcome(actions.ref(link), outcome)])
    return followed


@pytest.fixture(autouse=True)
def each_pause_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_results, "_TICK", 60)


def set_status(docora: Docora, link: TestLink, status: str, error: str | None = None) -> None:
    docora.set_link(link, status=status, last_error=error)


def run(followed: Following, *happenings: Callable[[], object]) -> list[BulkWait]:
    """Lets one thing happen after each look. Returns what each look has shown, and the end."""
    seen = []
    left = iter(happenings)
    steps = followed.follow()
    next(steps)
    for step in steps:
        seen.append(step)
        next(left, lambda: None)()
    return seen


def test_a_running_job_that_has_not_written_its_status_yet_is_waited_for(docora: Docora) -> None:
    link, actions = docora.add_link(), docora.actions()
    execution = docora.start_job(link.job_id)
    followed = follow(actions, link, outcome=Outcome.ALREADY_RUNNING)

    def end_job() -> None:
        docora.redis.delete(f"rq:wip:{docora.queue.name}", execution.key)
        docora.redis.delete(execution.job.execution_registry.key)

    def release() -> None:
        docora.connection.execute("SELECT pg_advisory_unlock_all()")

    docora.hold_lock(link.job_id)
    *seen, result = run(followed, end_job, release)
    assert [so_far.unfinished for so_far in seen] == [1, 1, 0]
    [failure] = result.failed_links
    assert failure.error_message == "HTTP 500 on created README.md"


def test_a_long_error_is_cut_where_many_are_kept(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot"), docora.actions()
    set_status(
        docora, link, "failed", "x" * 980 + " https://user:s3cr3t@git.example/" + "y" * 10**6
    )
    [failure] = run(follow(actions, link))[-1].failed_links
    assert failure.error_message == "x" * 980


def test_a_link_without_a_live_job_is_lost_after_some_time(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot"), docora.actions(drift_grace=0)
    watch = follow(actions, link).watch
    ids = [actions.ref(link).id]

    def look() -> int:
        watch.next_look = 0
        for _ in watch.look(ids):
            pass
        return watch.counts.lost

    assert (look(), look()) == (0, 1)
    docora.enqueue(link.job_id)
    assert (look(), watch.counts.waiting) == (0, 1)
    docora.redis.flushdb()
    # A worker that listens queues what a killed one was scanning again, within a minute.
    set_status(docora, link, "scanning")
    docora.add_worker()
    assert (look(), look()) == (0, 0)
    docora.redis.flushdb()
    assert look() == 1
    docora.hold_lock(link.job_id)
    assert (look(), look(), watch.counts.running) == (0, 0, 1)


def test_a_look_ends_when_time_runs_out(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = docora.actions()
    docora.add_links(20, status="pending_snapshot")
    followed, looked_at = follow(actions, *docora.links()), []

    def read_slowly(_: object, ids: Sequence[str]) -> list[SnapshotResult]:
        looked_at.append(ids)
        time.sleep(0.3)
        return []

    monkeypatch.setattr(snapshot_results, "_AT_ONCE", 1)
    monkeypatch.setattr(snapshot_results, "read_results", read_slowly)
    followed.start(0.1)
    assert [*followed.follow()][-1].unfinished == 20
    assert len(looked_at) == 1
