"""Following links to their results, with rows changed as any worker changes them."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from docora_ops.actions.waiting import follow as following
from docora_ops.actions.waiting import job_watch
from docora_ops.actions.waiting.follow import Following, wait_for_one
from docora_ops.actions.waiting.job_watch import Notice
from docora_ops.database.results import read_results
from docora_ops.links import Outcome
from docora_ops.queue import Answer
from docora_ops.waits import BulkWait, WaitEnd
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink


def follow(actions: Actions, *links: TestLink, outcome: Outcome = Outcome.QUEUED) -> Following:
    followed = Following(actions.database, actions.queue)
    for link in links:
        followed.add(actions.ref(link), outcome)
    return followed


def set_status(docora: Docora, link: TestLink, status: str, error: str | None = None) -> None:
    docora.set_link(link, status=status, last_error=error)


def one_by_one(followed: Following, *actions: Callable[[], object]) -> list[BulkWait]:
    """Do one thing after each look; returns what each look has shown."""
    seen: list[BulkWait] = []

    def step(so_far: BulkWait) -> None:
        if len(seen) < len(actions):
            actions[len(seen)]()
        seen.append(so_far)

    followed.on_step = step
    return seen


def test_a_try_that_failed_is_no_result_as_long_as_another_is_to_come(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot", last_error=None), docora.actions()
    followed = follow(actions, link)
    seen = one_by_one(
        followed,
        lambda: set_status(docora, link, "scanning"),
        lambda: set_status(docora, link, "pending_snapshot", "HTTP 500"),
        lambda: set_status(docora, link, "synced"),
    )
    result = wait_for_one(followed, actions.ref(link), None)
    assert (result.result, result.status, result.error_message) == (WaitEnd.SYNCED, "synced", None)
    assert [so_far.unfinished for so_far in seen] == [1, 1, 1, 0]


def test_many_are_counted_each_once_and_forgotten(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_AT_ONCE", 4)
    docora.add_links(30, apps=3, status="pending_snapshot")
    links, actions = docora.links(), docora.actions()
    followed = follow(actions, *links)
    for link in links[5:8]:
        set_status(docora, link, "failed", f"HTTP 500 for {link.job_id}")

    def sync_the_rest() -> None:
        docora.connection.execute("UPDATE app_repositories SET status = 'synced'")

    seen = one_by_one(
        followed,
        lambda: set_status(docora, links[0], "synced"),
        lambda: docora.delete_link(links[29]),
        sync_the_rest,
    )
    result = followed.run()
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
    seen = one_by_one(followed, end_job, release)
    result = wait_for_one(followed, actions.ref(link), None)
    assert [so_far.unfinished for so_far in seen] == [1, 1, 0]
    assert (result.result, result.error_message) == (
        WaitEnd.FAILED,
        "HTTP 500 on created README.md",
    )


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
    assert wait_for_one(followed, actions.ref(link), None).result is WaitEnd.SYNCED


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
    result = follow(actions, *docora.links()).run(timeout=0.2)
    assert (result.unfinished, result.jobs_by_state.total) == (40, 0)
    assert 0 < asked < 40


def test_a_long_error_is_cut_where_many_are_kept(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot"), docora.actions()
    set_status(
        docora, link, "failed", "x" * 980 + " https://user:s3cr3t@git.example/" + "y" * 10**6
    )
    [failure] = follow(actions, link).run().failed_links
    assert failure.error_message == "x" * 980 + " https://***"


def test_a_link_without_a_live_job_is_lost_after_some_time(docora: Docora) -> None:
    link, actions = docora.add_link("pending_snapshot"), docora.actions()
    watch = follow(actions, link).watch
    ids = [actions.ref(link).id]

    def look() -> int:
        watch.next_look = 0
        watch.look(ids)
        return watch.counts.lost

    watch.grace = 3600
    assert (look(), look()) == (0, 0)
    watch.grace = 0
    assert look() == 1
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
    notices: list[Notice] = []
    watch.on_notice = lambda notice, _: notices.append(notice)

    def look() -> list[Notice]:
        watch.next_look = 0
        watch.look([actions.ref(link).id])
        return notices

    assert (look(), look()) == ([], [])
    for _ in range(2):
        docora.add_worker()
        look()
        docora.redis.delete("rq:worker:worker-1")
        look()
    assert (look(), look()) == ([Notice.NO_WORKER, Notice.WORKER_BACK, Notice.NO_WORKER],) * 2


@pytest.mark.parametrize("begins", [True, False])
def test_what_failed_before_is_no_result_while_a_worker_may_have_the_job(
    docora: Docora, *, begins: bool
) -> None:
    link, actions = docora.add_link(last_error="HTTP 500 of before"), docora.actions()
    docora.enqueue(link.job_id)
    docora.redis.lrem(docora.queue.key, 0, link.job_id)
    followed = follow(actions, link, outcome=Outcome.ALREADY_RUNNING)
    status = "synced" if begins else "failed"
    seen = one_by_one(followed, lambda: set_status(docora, link, status))
    result = followed.run(None)
    assert [so_far.unfinished for so_far in seen] == [1, 0]
    assert (result.synced, result.failed) == (int(begins), int(not begins))
