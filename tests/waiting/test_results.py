"""Following links to their results, with rows changed as any worker changes them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from docora_ops.actions import following, job_watch
from docora_ops.actions.following import Following
from docora_ops.database.link_reports import read_results
from docora_ops.links import Outcome
from docora_ops.queue import Answer
from docora_ops.waits import BulkWait
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink


def follow(actions: Actions, *links: TestLink, outcome: Outcome = Outcome.QUEUED) -> Following:
    followed = Following(actions.docora)
    for link in links:
        followed.add(actions.ref(link), outcome)
    return followed


@pytest.fixture(autouse=True)
def each_pause_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_TICK", 60)


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


def test_a_try_that_failed_is_no_result_as_long_as_another_is_to_come(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot", last_error=None), docora.actions()
    followed = follow(actions, link)
    *seen, result = run(
        followed,
        lambda: set_status(docora, link, "scanning"),
        lambda: set_status(docora, link, "pending_snapshot", "HTTP 500"),
        lambda: set_status(docora, link, "synced"),
    )
    assert (result.synced, result.failed) == (1, 0)
    assert [so_far.unfinished for so_far in seen] == [1, 1, 1, 0]


def whole(check: Callable[..., Iterator[BulkWait]]) -> Callable[..., Iterator[BulkWait]]:
    """The same check, without an event between its statements."""

    def checked(*arguments: Any, **options: Any) -> Iterator[BulkWait]:
        for _ in check(*arguments, **options):
            pass
        yield from ()

    return checked


def test_many_are_counted_each_once_and_forgotten(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_AT_ONCE", 4)
    monkeypatch.setattr(Following, "_check", whole(Following._check))
    docora.add_links(30, apps=3, status="pending_snapshot")
    links, actions = docora.links(), docora.actions()
    followed = follow(actions, *links)
    for link in links[5:8]:
        set_status(docora, link, "failed", f"HTTP 500 for {link.job_id}")

    def sync_the_rest() -> None:
        docora.connection.execute("UPDATE app_repositories SET status = 'synced'")

    *seen, result = run(
        followed,
        lambda: set_status(docora, links[0], "synced"),
        lambda: docora.delete_link(links[29]),
        sync_the_rest,
    )
    assert [
        (step.synced, step.failed, step.gone, step.unfinished, step.total) for step in seen
    ] == [(0, 3, 0, 27, 30), (1, 3, 0, 26, 30), (1, 3, 1, 25, 30), (26, 3, 1, 0, 30)]
    assert {failure.job_id: failure.error_message for failure in result.failed_links} == {
        link.job_id: f"HTTP 500 for {link.job_id}" for link in links[5:8]
    }


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


def test_a_job_that_ends_between_two_questions_has_the_last_word(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, actions = docora.add_link(), docora.actions()
    followed = follow(actions, link, outcome=Outcome.ALREADY_RUNNING)
    look = actions.queue.look

    def end_job_and_look(job_ids: Sequence[str], **options: Any) -> list[Answer]:
        set_status(docora, link, "synced")
        return look(job_ids, **options)

    monkeypatch.setattr(actions.queue, "look", end_job_and_look)
    assert run(followed)[-1].synced == 1


@pytest.mark.parametrize("slow", ["results", "jobs"])
def test_a_look_at_many_links_breaks_off_when_the_time_is_over(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    docora.add_links(40, status="pending_snapshot")
    actions, asked = docora.actions(), 0

    def slowly(ask: Callable[..., Any]) -> Callable[..., Any]:
        def ask_slowly(*arguments: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            time.sleep(0.05)
            return ask(*arguments, **options)

        return ask_slowly

    if slow == "jobs":
        monkeypatch.setattr(job_watch, "_AT_ONCE", 1)
        monkeypatch.setattr(actions.queue, "look", slowly(actions.queue.look))
    else:
        monkeypatch.setattr(following, "_AT_ONCE", 1)
        monkeypatch.setattr(following, "read_results", slowly(read_results))
    *_, result = follow(actions, *docora.links()).follow(timeout=0.2)
    assert (result.unfinished, result.jobs_by_state.total) == (40, 0)
    assert 0 < asked < 40


def test_a_long_error_is_cut_where_many_are_kept(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot"), docora.actions()
    set_status(
        docora, link, "failed", "x" * 980 + " https://user:s3cr3t@git.example/" + "y" * 10**6
    )
    [failure] = run(follow(actions, link))[-1].failed_links
    assert failure.error_message == "x" * 980 + " https://***"


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
    assert (look(), look(), watch.is_hopeless) == (0, 1, False)
    docora.redis.flushdb()
    assert (look(), watch.is_hopeless) == (1, True)
    docora.hold_lock(link.job_id)
    assert (look(), look(), watch.counts.running) == (0, 0, 1)


def test_a_worker_is_only_missed_after_one_has_listened(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot"), docora.actions()
    docora.enqueue(link.job_id)
    watch = follow(actions, link).watch

    def look() -> list[str]:
        watch.next_look = 0
        for _ in watch.look([actions.ref(link).id]):
            pass
        return [each.text for each in actions.docora.notices]

    assert (look(), look()) == ([], [])
    for _ in range(2):
        docora.add_worker()
        look()
        docora.redis.delete("rq:worker:worker-1")
        look()
    look()
    missed, back, again = look()
    assert missed == again
    assert "no worker listens on the queue snapshot-queue any more" in missed
    assert back == "A worker listens again."


@pytest.mark.parametrize("begins", [True, False])
def test_what_failed_before_is_no_result_while_a_worker_may_have_the_job(
    docora: Docora, *, begins: bool
) -> None:
    link, actions = docora.add_link(last_error="HTTP 500 of before"), docora.actions()
    docora.enqueue(link.job_id)
    docora.redis.lrem(docora.queue.key, 0, link.job_id)
    followed = follow(actions, link, outcome=Outcome.ALREADY_RUNNING)
    status = "synced" if begins else "failed"

    def end_job() -> None:
        set_status(docora, link, status)
        docora.redis.delete(f"rq:job:{link.job_id}")

    *seen, result = run(followed, end_job)
    assert [so_far.unfinished for so_far in seen] == [1, 0]
    assert (result.synced, result.failed) == (int(begins), int(not begins))
