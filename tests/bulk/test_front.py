"""`--front`: the jobs of many links at the head of the queue, in the order of the apps' turns."""

import random
import signal
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from rq.job import JobStatus

from docora_ops.actions.bulk import run as bulk_run
from docora_ops.database.link_rows import read_payload
from docora_ops.jobs import JobState
from docora_ops.links import LinkRef, Outcome
from docora_ops.queue import PushRequest
from docora_ops.queue.scripts import JobScript
from tests.support.bulk_actions import APP, RESYNC, RETRY, BulkAction
from tests.support.docora import Docora, finish
from tests.support.job_states import (
    OTHER_QUEUE,
    doubtful,
    in_the_intermediate_list,
    in_the_list_without_a_hash,
    left,
    on_another_queue,
    scheduled,
)
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy
from tests.support.rows import in_turns
from tests.support.running_commands import PATIENT, await_goodbye, pending

KEY = "rq:queue:snapshot-queue"
OTHERS = [f"other-{number}" for number in range(40)]

both_actions = pytest.mark.parametrize("bulk", [RETRY, RESYNC], ids=str)


def add_links(docora: Docora, bulk: BulkAction, amount: int = 30) -> list[str]:
    """Links, and the order in which their jobs are to stand."""
    bulk.add_links(docora, amount, apps=1 if bulk is RESYNC else 4)
    return in_turns(link.job_id for link in docora.links())


def mixed(*parts: Sequence[str]) -> list[str]:
    """All ids in an order that no other order resembles."""
    ids = [job_id for part in parts for job_id in part]
    random.Random(7).shuffle(ids)
    return ids


@both_actions
@pytest.mark.parametrize("batch_size", [1, 2, 3, 1000])
def test_jobs_stand_at_the_head_and_apps_take_turns(
    docora: Docora, bulk: BulkAction, batch_size: int
) -> None:
    order = add_links(docora, bulk)
    docora.redis.rpush(KEY, *OTHERS)
    result = bulk.run(docora.actions(), batch_size=batch_size, front=True)
    assert result.counts == {Outcome.QUEUED: len(order)}
    assert docora.waiting() == order + OTHERS
    assert docora.statuses() == {"pending_snapshot": len(order)}


@both_actions
@pytest.mark.parametrize("batch_size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    "arrange",
    [
        pytest.param(lambda order: OTHERS + order, id="behind"),
        pytest.param(lambda order: order[::-1] + OTHERS, id="at the head, reversed"),
        pytest.param(lambda order: mixed(order, OTHERS), id="among others"),
        pytest.param(lambda order: mixed(order[::2], OTHERS), id="every other one"),
        pytest.param(lambda order: mixed(order, order[::3], OTHERS), id="every third one twice"),
    ],
)
def test_jobs_that_wait_already_are_moved_to_their_places(
    docora: Docora, bulk: BulkAction, batch_size: int, arrange: Callable[[list[str]], list[str]]
) -> None:
    order = add_links(docora, bulk)
    before = arrange(order)
    for job_id in before:
        docora.enqueue(job_id)
    result = bulk.run(docora.actions(), batch_size=batch_size, front=True)
    assert result.succeeded == len(order)
    assert result.counts[Outcome.ALREADY_QUEUED] == len(set(order) & set(before))
    assert docora.waiting() == order + [job_id for job_id in before if job_id in OTHERS]
    docora.assert_sound()


@both_actions
def test_a_job_that_waits_elsewhere_or_runs_is_left_where_it_is(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, bulk: BulkAction
) -> None:
    monkeypatch.setattr(bulk_run, "SECOND_LOOK_DELAY", 0)
    order = add_links(docora, bulk, 12)
    docora.redis.rpush(KEY, *OTHERS)
    arranged = dict(zip(order[1::2], range(6), strict=True))
    delayed, elsewhere, taken, running, stale, without_hash = arranged
    scheduled(docora, delayed)
    on_another_queue(docora, elsewhere)
    docora.redis.linsert(KEY, "BEFORE", OTHERS[3], elsewhere)  # a stale place in our list
    in_the_intermediate_list(docora, taken)
    docora.start_job(running)
    left(JobStatus.FAILED)(docora, stale)
    in_the_list_without_a_hash(docora, without_hash)
    result = bulk.run(docora.actions(), batch_size=5, front=True)
    assert result.counts == {
        Outcome.QUEUED: 6,
        Outcome.ALREADY_QUEUED: 3,
        Outcome.ALREADY_RUNNING: 1,
        Outcome.REPLACED_STALE: 2,
    }
    kept = {delayed, elsewhere, taken, running}
    assert docora.waiting() == [job_id for job_id in order if job_id not in kept] + OTHERS
    assert docora.registries(delayed) == {"rq:scheduled:snapshot-queue"}
    assert docora.redis.lrange(f"rq:queue:{OTHER_QUEUE}", 0, -1) == [elsewhere.encode()]


def test_a_push_tells_a_delayed_job_from_one_that_waits_in_the_list(docora: Docora) -> None:
    link, other = docora.add_link(), docora.add_link()
    scheduled(docora, link.job_id)
    docora.enqueue(other.job_id)
    actions = docora.actions()
    payloads = [read_payload(actions.database, LinkRef("", *each.ids)) for each in (link, other)]
    requests = [PushRequest(each.job_id, each, is_rescan=True) for each in payloads]
    answers = actions.queue.push(requests)
    assert [(each.outcome, each.is_delayed) for each in answers] == [
        (Outcome.ALREADY_QUEUED, True),
        (Outcome.ALREADY_QUEUED, False),
    ]
    assert docora.run("retry", *link.ids, "--reason", "late").code == 0
    [entry] = docora.run("history", "--json").data
    assert (entry["reason"], entry["counts"]) == ("late", {"total": 1, "already_queued": 1})


def test_doubtful_jobs_that_are_queued_at_the_end_take_turns_among_themselves(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_run, "SECOND_LOOK_DELAY", 0)
    order = add_links(docora, RETRY)
    docora.redis.rpush(KEY, *OTHERS)
    late = order[::4]
    for job_id in late:
        doubtful(docora, job_id)
    docora.actions().retry_all(batch_size=3, front=True)
    rest = [job_id for job_id in order if job_id not in late]
    assert docora.waiting() == late + rest + OTHERS


def test_a_link_that_is_refused_among_others_does_not_change_their_order(docora: Docora) -> None:
    order = add_links(docora, RETRY)
    bad = order[7]
    docora.redis.rpush(KEY, *OTHERS)
    docora.add_trigger(
        "RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'",
        when=f"old.app_id || '-' || old.repository_id = '{bad}'",
    )
    result = docora.actions().retry_all(batch_size=1000, front=True)
    assert result.counts == {Outcome.QUEUED: len(order) - 1, Outcome.NOT_QUEUED: 1}
    assert docora.waiting() == [job_id for job_id in order if job_id != bad] + OTHERS


def test_an_attempt_that_is_rolled_back_after_the_push_leaves_the_order(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker takes one of the jobs between the look and the push."""
    monkeypatch.setattr(bulk_run, "SECOND_LOOK_DELAY", 0)
    order = add_links(docora, RETRY)
    for job_id in [*OTHERS, *order[::3]]:
        docora.enqueue(job_id)
    taken = order[9]
    actions = docora.actions()
    push = actions.queue.push
    once = iter([True])

    def take_one_then_push(*arguments: Any, **options: Any) -> Any:
        if next(once, False):
            docora.redis.lrem(KEY, 0, taken)
            docora.start_job(taken)
        return push(*arguments, **options)

    monkeypatch.setattr(actions.queue, "push", take_one_then_push)
    result = actions.retry_all(batch_size=1000, front=True)
    assert result.counts[Outcome.ALREADY_RUNNING] == 1
    assert docora.waiting() == [job_id for job_id in order if job_id != taken] + OTHERS
    docora.assert_sound()


@both_actions
def test_workers_and_producers_that_are_at_it_meanwhile_cause_no_double(
    docora: Docora, bulk: BulkAction
) -> None:
    order = add_links(docora, bulk, 300)
    for job_id in mixed(order, OTHERS):
        docora.enqueue(job_id)
    popped: list[bytes] = []

    def prepare(run: bulk_run.BulkRun) -> None:
        def happen(_: int) -> None:
            popped.extend(cast("list[bytes]", docora.redis.lpop(KEY, 2)))
            docora.redis.lpush(KEY, f"urgent-{len(popped)}")

        run.on_progress = happen

    result = bulk.run(docora.actions(), batch_size=20, prepare=prepare, front=True)
    assert result.completed == result.succeeded == len(order)
    assert docora.doubled_jobs() == []
    gone = {job_id.decode() for job_id in popped}
    kept = [job_id for job_id in docora.waiting() if job_id in order]
    # A job that was taken before its turn is queued anew, at the very head.
    assert {job_id for job_id in order if job_id not in gone} <= set(kept)
    assert "docora-ops:removed" not in docora.waiting()


def test_the_list_is_not_searched_for_each_job(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch finds its jobs where the moves of the batches before have left them."""
    order = add_links(docora, RETRY, 1000)
    for job_id in mixed(order, OTHERS):
        docora.enqueue(job_id)
    hints: list[tuple[str, int]] = []
    run = JobScript.run

    def check_hints(
        script: Any, mode: str, job_ids: Any, arguments: Any, *rest: Any, **more: Any
    ) -> Any:
        if mode == "push":
            places = {job_id: index for index, job_id in enumerate(docora.waiting())}
            hints.extend(zip(arguments[1::6], map(places.__getitem__, job_ids), strict=True))
        return run(script, mode, job_ids, arguments, *rest, **more)

    monkeypatch.setattr(JobScript, "run", check_hints)
    docora.actions().retry_all(batch_size=50, front=True)
    assert docora.waiting() == order + [each for each in mixed(order, OTHERS) if each in OTHERS]
    assert len(hints) == 1000
    assert [hint for hint, _ in hints] == [str(index) for _, index in hints]


def test_a_look_at_jobs_that_were_moved_finds_them(docora: Docora) -> None:
    order = add_links(docora, RETRY)
    for job_id in mixed(order, OTHERS):
        docora.enqueue(job_id)
    queue = docora.actions().queue
    waiting = queue.read_waiting()
    waiting.note_pushed_to_head(order[:5])
    answers = queue.look([*order, *OTHERS], waiting=waiting)
    assert {answer.state for answer in answers} == {JobState.WAITING}


@both_actions
@pytest.mark.parametrize(
    ("marker", "fault"),
    [
        pytest.param(PUSH, Fault.HOLD_REQUEST, id="before a push"),
        pytest.param(PUSH, Fault.HOLD_REPLY, id="after a push"),
        pytest.param(COMMIT, Fault.HOLD_REQUEST, id="before a commit"),
        pytest.param(COMMIT, Fault.HOLD_REPLY, id="after a commit"),
    ],
)
def test_killed_in_its_third_batch_it_loses_nothing_and_the_next_run_restores_the_order(
    docora: Docora, bulk: BulkAction, marker: bytes, fault: Fault
) -> None:
    order = add_links(docora, bulk, 4 * bulk.batch + 1)
    before = mixed(order[::2], OTHERS)
    for job_id in before:
        docora.enqueue(job_id)
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        plan = bulk.plan_third_batch(redis_proxy, postgres_proxy, marker, fault, jobs_wait=True)
        process = docora.start(
            *bulk.command,
            "--front",
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        plan.wait()
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        await_goodbye(docora)
    docora.assert_sound()
    assert set(before) <= set(docora.waiting())
    assert 0 < pending(docora) < len(order)

    result = docora.run(*bulk.command, "--front", "--json")
    assert result.code == 0, result
    assert docora.waiting() == order + [job_id for job_id in before if job_id in OTHERS]
    assert docora.statuses() == {"pending_snapshot": len(order)}


@both_actions
def test_a_dry_run_lists_the_links_in_turns_and_moves_none(
    docora: Docora, bulk: BulkAction
) -> None:
    order = add_links(docora, bulk)
    for job_id in mixed(order[::2], OTHERS):
        docora.enqueue(job_id)
    before = docora.dump()
    command = [word for word in bulk.command if word != "--yes"]
    result = docora.run(*command, "--front", "--dry-run", "--json")
    assert result.code == 0, result
    assert [link["job_id"] for link in result.data["planned_links"]] == order
    assert docora.dump() == before


def test_one_link_that_is_sent_again_goes_to_the_head(docora: Docora) -> None:
    add_links(docora, RESYNC, 3)
    docora.redis.rpush(KEY, *OTHERS)
    first, second, _ = docora.links()
    for link in (first, second):
        result = docora.run("resync", *link.ids, "--front", "--json")
        assert (result.code, result.data["outcome"]) == (0, "queued")
    assert docora.waiting() == [second.job_id, first.job_id, *OTHERS]
    assert docora.run("resync", APP, first.repository_id, "--front").code == 0
    assert docora.waiting() == [first.job_id, second.job_id, *OTHERS]
