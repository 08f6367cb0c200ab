"""What becomes of a link depends on the state of its job, in the same way for each action."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import pytest
from rq.job import Job, JobStatus

from docora_ops.database.link_rows import read_payload
from docora_ops.jobs import JobState
from docora_ops.links import Outcome
from docora_ops.queue import Answer, PushRefusedError, PushRequest
from tests.support.bulk_actions import APP, RESYNC, BulkAction, every_bulk_action
from tests.support.docora import WIP, Docora
from tests.support.job_states import (
    IN_THE_LIST_ALREADY,
    MISPLACED,
    STATES,
    add_link_in_each_state,
    taken_by_a_worker_that_died,
)
from tests.support.rows import TestLink

Footprint = dict[str, object]
"""The Redis keys that are about a job, with what they hold of it."""


def footprints(docora: Docora, job_ids: Iterable[str]) -> dict[str, Footprint]:
    """Leaves out what RQ keeps of its workers: only they touch it."""
    found: dict[str, Footprint] = {job_id: {} for job_id in job_ids}
    keys = cast("list[bytes]", docora.redis.keys())
    for key, content in zip(keys, docora.contents(keys), strict=True):
        name = key.decode()
        of_one = found.keys() & set(name.split(":"))
        if name.startswith("rq:worker:"):
            continue
        for job_id in of_one:
            found[job_id][name] = content
        for entry in content if isinstance(content, list | set) and not of_one else ():
            member = (entry[0] if isinstance(entry, tuple) else entry).decode(errors="replace")
            if (job_id := member.split(":")[0]) in found:
                cast("list[Any]", found[job_id].setdefault(name, [])).append(entry)
    return found


def assert_job(
    docora: Docora, link: TestLink, state: str, before: Footprint, *, is_rescan: bool
) -> None:
    """A queued link has one new job and nothing else in Redis; any other job is as it was."""
    outcome = STATES[state][1]
    key = Job.key_for(link.job_id)
    found = footprints(docora, [link.job_id])[link.job_id]
    if outcome in {Outcome.QUEUED, Outcome.REPLACED_STALE}:
        assert found.keys() == {docora.queue.key, key}, state
        places = 2 if state in IN_THE_LIST_ALREADY else 1
        assert found[docora.queue.key] == [link.job_id.encode()] * places, state
        assert docora.job(link).kwargs["repository_id"] == link.repository_id
        assert docora.job(link).kwargs["is_rescan"] is is_rescan
    else:
        assert found == before, state
    if outcome.is_put_to_work:
        assert docora.redis.ttl(key) == -1, state


@pytest.mark.slow
@every_bulk_action
def test_a_bulk_action_does_what_the_state_of_each_job_asks_for_and_a_dry_run_predicts_it(
    docora: Docora, bulk: BulkAction
) -> None:
    batch_size = 7
    links = add_link_in_each_state(docora, docora.add_app("Acme Search", APP), bulk.status)
    rows = {name: docora.row(link) for name, link in links.items()}
    before = footprints(docora, [link.job_id for link in links.values()])
    in_order = docora.waiting()
    outcomes = {name: outcome for name, (_, outcome) in STATES.items()}
    if bulk is RESYNC:  # it would be lost on the snapshot that is running
        missed = {Outcome.ALREADY_RUNNING: Outcome.NOT_QUEUED}
        outcomes = {name: missed.get(outcome, outcome) for name, outcome in outcomes.items()}
    expected = Counter(outcomes.values())
    actions, dump = docora.actions(drift_grace=0), docora.dump()

    plan = bulk.run(actions, batch_size=batch_size, dry_run=True)
    assert docora.dump() == dump
    assert {link.job_id: link.outcome for link in plan.planned_links or ()} == {
        links[name].job_id: outcome for name, outcome in outcomes.items()
    }

    result = bulk.run(actions, batch_size=batch_size)
    assert result.counts == plan.counts == expected
    assert result.total == result.completed == len(STATES)
    errors = {failure.job_id: failure.error_message for failure in result.failures}
    fields = docora.job_hash(links["no job"].job_id).keys()
    for name, (_, outcome) in STATES.items():
        link = links[name]
        assert_job(docora, link, name, before[link.job_id], is_rescan=bulk is not RESYNC)
        if outcome.is_put_to_work and bulk.done_status != bulk.status:
            assert docora.was_reset(link), name
        else:
            assert docora.row(link) == rows[name], name
        forgotten = bulk is RESYNC and outcome.is_put_to_work
        assert docora.deliveries(link) == (0 if forgotten else 2), name
        if outcome is Outcome.NOT_QUEUED:
            assert "WRONGTYPE" in errors.pop(link.job_id), name
        elif bulk is RESYNC and outcome is Outcome.ALREADY_RUNNING:
            assert "running" in errors.pop(link.job_id), name
        elif outcome in {Outcome.QUEUED, Outcome.REPLACED_STALE}:
            assert docora.job_hash(link.job_id).keys() == fields, name
    assert errors == {}
    queue = docora.waiting()
    assert queue[: len(in_order)] == in_order
    assert set(docora.doubled_jobs()) == {links[name].job_id for name in IN_THE_LIST_ALREADY}
    bulk.run(actions, batch_size=batch_size)
    assert docora.waiting() == queue


def test_a_misplaced_job_is_replaced_if_it_is_as_two_looks_have_found_it(docora: Docora) -> None:
    actions = docora.actions(drift_grace=0)

    def push(link: TestLink, disproved: str) -> Answer:
        payload = read_payload(actions.database, actions.ref(link))
        request = PushRequest(link.job_id, payload, is_rescan=True, disproved=disproved)
        [answer] = actions.queue.push([request], actions.queue.script.load())
        return answer

    for arrange in MISPLACED.values():
        link = docora.add_link()
        arrange(docora, link.job_id)
        fields = docora.job_hash(link.job_id)
        evidence = f"{fields['status'].decode()} {fields['enqueued_at'].decode()}"
        for wrong in ("", evidence + "1", "queued"):
            assert push(link, wrong).state is JobState.WAITING
        assert link.job_id not in docora.waiting()
        assert push(link, evidence).state is JobState.STALE
        assert docora.waiting()[-1] == link.job_id
        assert docora.registries(link.job_id) == set()
        assert push(link, evidence).state is JobState.WAITING
    docora.start_job(link.job_id)
    docora.redis.hset(Job.key_for(link.job_id), "status", "queued")
    at = docora.job_hash(link.job_id)["enqueued_at"].decode()
    with pytest.raises(PushRefusedError) as refused:  # a running job is never replaced
        push(link, f"queued {at}")
    assert refused.value.answers[link.job_id].state is JobState.RUNNING


def test_what_killed_workers_left_is_removed_with_the_job_and_no_more(docora: Docora) -> None:
    link = docora.add_link()
    similar = {f"{link.job_id}0", link.job_id[:-1], "unrelated"}
    for job_id in (link.job_id, *similar):
        docora.leave_job(job_id, JobStatus.FAILED)
        taken_by_a_worker_that_died(docora, job_id)
    before = footprints(docora, similar)
    docora.start_job(link.job_id, heartbeat=-30)
    docora.redis.zadd(WIP, {f"other-{number}:e": 10**9 * 2 + number for number in range(2000)})
    docora.redis.zadd(WIP, {b"\xff:\xff": 1})
    docora.actions().retry(link)
    assert docora.redis.zcard(WIP) == 2001
    assert footprints(docora, similar) == before
