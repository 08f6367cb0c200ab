"""What becomes of a link depends on the state of its job, in the same way for each action."""

from collections import Counter
from collections.abc import Iterable
from typing import cast

import pytest
from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus

from docora_ops.database.link_rows import read_payload
from docora_ops.errors import (
    DocoraOpsError,
    JobMisplacedError,
    JobUnreadableError,
    RefusedError,
    SnapshotRunningError,
)
from docora_ops.jobs import JobState
from docora_ops.links import Action, Outcome
from docora_ops.queue import PushRequest
from tests.support.bulk_actions import APP, RESYNC, BulkAction, every_bulk_action
from tests.support.docora import WIP, Docora
from tests.support.job_states import (
    FINISHED,
    IN_THE_LIST_ALREADY,
    MISPLACED,
    RUNNING,
    STALE,
    STATES,
    UNREADABLE,
    WAITING,
    add_link_in_each_state,
    taken_by_a_worker_that_died,
)
from tests.support.rows import TestLink

Footprint = dict[str, object]
"""The Redis keys that are about a job, with what they hold of it."""


def footprints(docora: Docora, job_ids: Iterable[str]) -> dict[str, Footprint]:
    """Leaves out what RQ keeps of its workers: only they touch it."""
    found: dict[str, Footprint] = {job_id: {} for job_id in job_ids}
    for key in cast("list[bytes]", docora.redis.keys()):
        name = key.decode()
        if name.startswith("rq:worker:"):
            continue
        for job_id in found.keys() & set(name.split(":")):
            found[job_id][name] = docora.content(key)
        for member, score in members(docora, key):
            if member.split(":")[0] in found:
                entries = found[member.split(":")[0]].setdefault(name, [])
                if isinstance(entries, list):  # not a key of this job alone
                    entries.append((member, score))
    return found


def footprint(docora: Docora, job_id: str) -> Footprint:
    return footprints(docora, [job_id])[job_id]


def members(docora: Docora, key: bytes) -> list[tuple[str, float | None]]:
    """What a list, a set or a sorted set holds, with scores."""
    match cast("bytes", docora.redis.type(key)):
        case b"list":
            values: object = docora.redis.lrange(key, 0, -1)
        case b"set":
            values = docora.redis.smembers(key)
        case b"zset":
            scored = cast(
                "list[tuple[bytes, float]]", docora.redis.zrange(key, 0, -1, withscores=True)
            )
            return [(member.decode(), score) for member, score in scored]
        case _:
            values = []
    return [(value.decode(), None) for value in cast("list[bytes]", values)]


def assert_job(
    docora: Docora, link: TestLink, state: str, before: Footprint, *, is_rescan: bool
) -> None:
    """A queued link has one new job and nothing else in Redis; any other job is as it was."""
    outcome = STATES[state][1]
    key = Job.key_for(link.job_id)
    found = footprint(docora, link.job_id)
    if outcome in {Outcome.QUEUED, Outcome.REPLACED_STALE}:
        assert found.keys() == {docora.queue.key, key}
        places = 2 if state in IN_THE_LIST_ALREADY else 1
        assert found[docora.queue.key] == [(link.job_id, None)] * places
        assert docora.job(link).kwargs["repository_id"] == link.repository_id
        assert docora.job(link).kwargs["is_rescan"] is is_rescan
    else:
        assert found == before
    if outcome.succeeded:
        assert docora.redis.ttl(key) == -1


@pytest.mark.parametrize("action", [Action.RETRY, Action.RESYNC])
@pytest.mark.parametrize("state", STATES)
def test_a_change_of_one_link_does_what_the_state_of_its_job_asks_for(
    docora: Docora, action: Action, state: str
) -> None:
    arrange, outcome = STATES[state]
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    arrange(docora, link.job_id)
    before, row = footprint(docora, link.job_id), docora.row(link)
    change = getattr(docora.actions(), action)
    error: type[DocoraOpsError] | None = None
    if outcome is Outcome.NOT_QUEUED:
        error = JobUnreadableError
    elif (action, outcome) == (Action.RESYNC, Outcome.ALREADY_RUNNING):
        error = SnapshotRunningError
    elif state in MISPLACED:
        error = JobMisplacedError
    is_changed = error is None and outcome.succeeded
    for dry_run in (True, False):
        dump = docora.dump()
        if error is None:
            assert change(link, dry_run=dry_run).outcome is outcome
        else:
            with pytest.raises(error) as refusal:
                change(link, dry_run=dry_run)
            if isinstance(refusal.value, RefusedError):
                job = "waiting" if error is JobMisplacedError else "running"
                assert refusal.value.details == {"status": "failed", "job": job}
            if error is JobMisplacedError:
                assert f"docora-ops repair {' '.join(link.ids)}" in (refusal.value.hint or "")
        if dry_run:
            assert docora.dump() == dump
    if error is None:
        assert_job(docora, link, state, before, is_rescan=action is Action.RETRY)
    else:
        assert footprint(docora, link.job_id) == before
    assert docora.was_reset(link) is is_changed
    assert is_changed or docora.row(link) == row
    forgotten = action is Action.RESYNC and is_changed
    assert docora.deliveries(link) == (0 if forgotten else 3)


@every_bulk_action
def test_a_bulk_action_does_what_the_state_of_each_job_asks_for_and_a_dry_run_predicts_it(
    docora: Docora, bulk: BulkAction
) -> None:
    batch_size = 7
    links = add_link_in_each_state(docora, docora.add_app("Acme Search", APP), bulk.status)
    rows = {name: docora.row(link) for name, link in links.items()}
    before = footprints(docora, [link.job_id for link in links.values()])
    in_order = docora.waiting()
    expected = Counter(outcome for _, outcome in STATES.values())
    actions, dump = docora.actions(), docora.dump()

    plan = bulk.run(actions, batch_size=batch_size, dry_run=True)
    assert docora.dump() == dump
    assert {link.job_id: link.outcome for link in plan.planned_links or ()} == {
        links[name].job_id: outcome for name, (_, outcome) in STATES.items()
    }

    result = bulk.run(actions, batch_size=batch_size)
    assert result.counts == plan.counts == expected
    assert result.total == result.completed == len(STATES)
    errors = {failure.job_id: failure.error_message for failure in result.failures}
    for name, (_, outcome) in STATES.items():
        link = links[name]
        is_rescan = bulk is not RESYNC
        assert_job(docora, link, name, before[link.job_id], is_rescan=is_rescan)
        if outcome.succeeded and bulk.done_status != bulk.status:
            assert docora.was_reset(link), name
        else:
            assert docora.row(link) == rows[name], name
        forgotten = bulk is RESYNC and outcome.succeeded
        assert docora.deliveries(link) == (0 if forgotten else 2), name
        if outcome is Outcome.NOT_QUEUED:
            assert "WRONGTYPE" in errors.pop(link.job_id), name
        elif bulk is RESYNC and outcome is Outcome.ALREADY_RUNNING:
            assert "running" in errors.pop(link.job_id), name
    assert errors == {}
    fields = docora.job_hash(links["no job"].job_id).keys()
    for name, (_, outcome) in STATES.items():
        if outcome in {Outcome.QUEUED, Outcome.REPLACED_STALE}:
            assert docora.job_hash(links[name].job_id).keys() == fields, name
    queue = docora.waiting()
    assert queue[: len(in_order)] == in_order
    assert set(docora.doubled_jobs()) == {links[name].job_id for name in IN_THE_LIST_ALREADY}

    bulk.run(actions, batch_size=batch_size)
    assert docora.waiting() == queue


def test_failed_and_show_name_the_state_of_each_job(docora: Docora) -> None:
    links = add_link_in_each_state(docora, docora.add_app(), "failed")
    expected = dict.fromkeys(STATES, "none")
    for state, names in (
        *(("finished", FINISHED), ("stale", STALE), ("waiting", WAITING | MISPLACED)),
        *(("running", RUNNING), ("unreadable", UNREADABLE)),
    ):
        expected |= dict.fromkeys(names, state)
    rows = docora.run("failed", "--limit", str(len(links)), "--json").data
    found = {row["repository_id"]: row["job"] for row in rows}
    assert {name: found[link.repository_id] for name, link in links.items()} == expected
    for name in ("finished", "finished, execution left"):
        shown = docora.run("show", *links[name].ids, "--json").data
        assert (shown["job"], shown["job_record"]["status"]) == (expected[name], "finished")


def test_stale_jobs_with_similar_ids_stay(docora: Docora) -> None:
    link = docora.add_link()
    others = {f"{link.job_id}0", link.job_id[:-1], "unrelated"}
    for job_id in (link.job_id, *others):
        docora.leave_job(job_id, JobStatus.FAILED)
        taken_by_a_worker_that_died(docora, job_id)
    before = footprints(docora, others)
    docora.actions().retry(link)
    assert footprints(docora, others) == before


@pytest.mark.parametrize(
    "state", sorted(STATES.keys() - UNREADABLE.keys() - {"running, hash gone"})
)
def test_rqs_own_unique_jobs_are_judged_by_the_same_key(docora: Docora, state: str) -> None:
    """RQ enqueues no unique job over any hash, wherever the id stands; we replace some of these."""
    link = docora.add_link()
    STATES[state][0](docora, link.job_id)
    before = docora.actions().queue.look([link.job_id])[0].state
    try:
        docora.enqueue(link.job_id, unique=True)
    except DuplicateJobError:
        assert before is not JobState.NONE
    else:
        assert before is JobState.NONE
        assert docora.actions().queue.look([link.job_id])[0].state is JobState.WAITING


@pytest.mark.parametrize("state", MISPLACED)
def test_a_misplaced_job_is_replaced_if_it_is_as_two_looks_have_found_it(
    docora: Docora, state: str
) -> None:
    link = docora.add_link()
    MISPLACED[state](docora, link.job_id)
    fields = docora.job_hash(link.job_id)
    evidence = f"{fields['status'].decode()} {fields['enqueued_at'].decode()}"
    queue = docora.actions().queue
    payload = read_payload(docora.actions().database, docora.actions().ref(link))

    def push(disproved: str) -> Outcome | None:
        request = PushRequest(link.job_id, payload, is_rescan=True, disproved=disproved)
        return queue.push([request])[0].outcome

    assert push("") is push(evidence + "1") is push("queued") is Outcome.ALREADY_QUEUED
    assert docora.waiting() == []
    assert push(evidence) is Outcome.REPLACED_STALE
    assert docora.waiting() == [link.job_id]
    assert docora.registries(link.job_id) == set()
    assert push(evidence) is Outcome.ALREADY_QUEUED


def test_a_running_job_is_never_replaced_whatever_seems_disproved(docora: Docora) -> None:
    link = docora.add_link()
    docora.start_job(link.job_id)
    docora.redis.hset(Job.key_for(link.job_id), "status", "queued")
    at = docora.job_hash(link.job_id)["enqueued_at"].decode()
    actions = docora.actions()
    payload = read_payload(actions.database, actions.ref(link))
    request = PushRequest(link.job_id, payload, is_rescan=True, disproved=f"queued {at}")
    [answer] = actions.queue.push([request])
    assert (answer.state, answer.outcome) == (JobState.RUNNING, None)


def test_what_killed_workers_have_left_is_removed_with_the_job_though_others_left_more(
    docora: Docora,
) -> None:
    link = docora.add_link()
    docora.start_job(link.job_id, heartbeat=-30)
    docora.redis.zadd(WIP, {f"other-{number}:e": 10**9 * 2 + number for number in range(2000)})
    docora.redis.zadd(WIP, {b"\xff:\xff": 1})
    docora.actions().retry(link)
    assert docora.redis.zcard(WIP) == 2001
