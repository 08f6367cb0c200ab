"""What becomes of a link depends on the state of its job, in the same way for each action."""

from collections import Counter
from collections.abc import Iterable
from typing import cast

import pytest
from rq.job import Job, JobStatus

from docora_ops.errors import DocoraOpsError, JobUnreadableError, SnapshotRunningError
from docora_ops.links import Action, App, Outcome
from tests.support.bulk_actions import APP, RESYNC, BulkAction, every_bulk_action
from tests.support.docora import QUEUE, Docora
from tests.support.job_states import (
    FINISHED,
    RUNNING,
    STALE,
    STATES,
    UNREADABLE,
    WAITING,
    Arrange,
    add_link_in_each_state,
    in_the_list_without_a_hash,
    stale_on_another_queue,
    taken_by_a_worker_that_died,
)
from tests.support.rows import TestLink

Footprint = dict[str, object]
"""The Redis keys that are about a job, with what they hold of it."""

DOUBTFUL = {"queued, in no list", "enqueued over a failed job, then lost"}
"""States that a second look finds to be stale."""
SHOWN_BY_STATUS = {
    **dict.fromkeys(DOUBTFUL, "waiting"),
    "scheduled, not registered": "waiting",
    "deferred, not registered": "waiting",
    "rate limited, not registered": "waiting",
    "enqueued, reads failed": "stale",
    "in the list, hash gone": "none",
    "finished on another queue, id in our list": "finished",
}
"""What screens call the states in which the job's status contradicts its places."""

DIFFERENT_IN_EACH_JOB = {"data", "description", "created_at", "enqueued_at"}


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
    docora: Docora, link: TestLink, outcome: Outcome, before: Footprint, *, is_rescan: bool
) -> None:
    """A queued link has one new job and nothing else in Redis; any other job is as it was."""
    key = Job.key_for(link.job_id)
    found = footprint(docora, link.job_id)
    if outcome in {Outcome.QUEUED, Outcome.REPLACED_STALE}:
        assert found.keys() == {docora.queue.key, key}
        assert found[docora.queue.key] == [(link.job_id, None)]
        assert docora.job(link).kwargs["repository_id"] == link.repository_id
        assert docora.job(link).kwargs["is_rescan"] is is_rescan
    else:
        assert found == before
    if outcome.succeeded:
        assert docora.redis.ttl(key) == -1


@pytest.mark.parametrize("action", [Action.RETRY, Action.RESYNC])
@pytest.mark.parametrize(("arrange", "outcome"), STATES.values(), ids=STATES)
def test_a_change_of_one_link_does_what_the_state_of_its_job_asks_for(
    docora: Docora, action: Action, arrange: Arrange, outcome: Outcome
) -> None:
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
    for dry_run in (True, False):
        dump = docora.dump()
        if error is None:
            assert change(link, dry_run=dry_run).outcome is outcome
        else:
            with pytest.raises(error) as refusal:
                change(link, dry_run=dry_run)
            if error is SnapshotRunningError:
                assert refusal.value.details == {"status": "failed", "job": "running"}
        if dry_run:
            assert docora.dump() == dump
    assert_job(docora, link, outcome, before, is_rescan=action is Action.RETRY)
    assert docora.was_reset(link) is outcome.succeeded
    assert outcome.succeeded or docora.row(link) == row
    forgotten = action is Action.RESYNC and outcome.succeeded
    assert docora.deliveries(link) == (0 if forgotten else 3)


@every_bulk_action
@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_a_bulk_action_does_what_the_state_of_each_job_asks_for_and_a_dry_run_predicts_it(
    docora: Docora, bulk: BulkAction, batch_size: int
) -> None:
    links = add_link_in_each_state(docora, docora.add_app("Acme Search", APP), bulk.status)
    rows = {name: docora.row(link) for name, link in links.items()}
    before = footprints(docora, [link.job_id for link in links.values()])
    kept_in_order = [
        job_id for job_id in docora.waiting() if job_id in {links[name].job_id for name in links}
    ]
    expected = Counter(outcome for _, outcome in STATES.values())
    actions, dump = docora.actions(), docora.dump()

    plan = bulk.run(actions, batch_size=batch_size, dry_run=True)
    assert docora.dump() == dump
    assert {link.job_id: link.outcome for link in plan.links or ()} == {
        links[name].job_id: outcome for name, (_, outcome) in STATES.items()
    }

    result = bulk.run(actions, batch_size=batch_size)
    assert result.counts == plan.counts == expected
    assert result.by_app == plan.by_app == {App(APP, "Acme Search"): expected}
    assert result.total == result.completed == len(STATES)
    errors = {failure.job_id: failure.error_message for failure in result.failures}
    for name, (_, outcome) in STATES.items():
        link = links[name]
        is_rescan = bulk is not RESYNC
        assert_job(docora, link, outcome, before[link.job_id], is_rescan=is_rescan)
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
    queue = docora.waiting()
    assert [job_id for job_id in queue if job_id in kept_in_order] == kept_in_order
    assert docora.doubled_jobs() == []

    bulk.run(actions, batch_size=batch_size)
    assert docora.waiting() == queue


def test_failed_and_show_name_the_state_of_each_job(docora: Docora) -> None:
    links = add_link_in_each_state(docora, docora.add_app(), "failed")
    expected = dict.fromkeys(STATES, "none")
    for state, names in (
        *(("finished", FINISHED), ("stale", STALE), ("waiting", WAITING)),
        *(("running", RUNNING), ("unreadable", UNREADABLE)),
    ):
        expected |= dict.fromkeys(names, state)
    expected |= SHOWN_BY_STATUS
    rows = docora.run("failed", "--limit", str(len(links)), "--json").data
    found = {row["repository_id"]: row["job"] for row in rows}
    assert {name: found[link.repository_id] for name, link in links.items()} == expected
    for name in ("finished", "finished, execution left"):
        shown = docora.run("show", *links[name].ids, "--json").data
        assert (shown["job"], shown["job_record"]["status"]) == (expected[name], "finished")


def test_a_new_job_has_the_fields_of_any_other_whatever_it_replaces(docora: Docora) -> None:
    links = add_link_in_each_state(docora, docora.add_app(), "failed")
    docora.actions().retry_all()
    plain = docora.job_hash(links["no job"].job_id)
    for name, (_, outcome) in STATES.items():
        if outcome in {Outcome.QUEUED, Outcome.REPLACED_STALE}:
            fields = docora.job_hash(links[name].job_id)
            assert fields.keys() == plain.keys(), name
            changed = {field for field in fields if fields[field] != plain[field]}
            assert changed <= DIFFERENT_IN_EACH_JOB, name


def test_jobs_whose_hash_is_gone_are_queued_in_their_old_places(docora: Docora) -> None:
    links = [docora.add_link() for _ in range(5)]
    for link in reversed(links):
        in_the_list_without_a_hash(docora, link.job_id)
        docora.enqueue(f"after-{link.job_id}")
    places = docora.waiting()
    actions = docora.actions()
    actions.retry(links[2])
    actions.retry_all(batch_size=2)
    assert docora.waiting() == places
    assert docora.lost_links() == []


@pytest.mark.parametrize("command", ["retry", "resync", "retry_all"])
def test_a_job_whose_hash_is_gone_is_not_queued_in_two_places(docora: Docora, command: str) -> None:
    link = docora.add_link()
    docora.redis.rpush(docora.queue.key, link.job_id, "between", link.job_id)
    actions = docora.actions()
    actions.retry_all() if command == "retry_all" else getattr(actions, command)(link)
    assert docora.waiting().count(link.job_id) == 1
    assert "between" in docora.waiting()
    assert docora.was_reset(link)


def test_stale_jobs_with_similar_ids_stay(docora: Docora) -> None:
    link = docora.add_link()
    others = {f"{link.job_id}0", link.job_id[:-1], "unrelated"}
    for job_id in (link.job_id, *others):
        docora.leave_job(job_id, JobStatus.FAILED)
        taken_by_a_worker_that_died(docora, job_id)
    before = footprints(docora, others)
    docora.actions().retry(link)
    assert footprints(docora, others) == before


def test_a_place_in_our_list_of_a_job_that_is_stale_on_another_queue_is_not_doubled(
    docora: Docora,
) -> None:
    link = docora.add_link()
    docora.enqueue(link.job_id)
    stale_on_another_queue(docora, link.job_id)
    docora.redis.rpush(docora.queue.key, link.job_id)
    docora.actions().retry(link)
    assert docora.was_reset(link)
    assert docora.waiting() == [link.job_id]
    assert docora.job(link).origin == QUEUE


def test_a_stale_job_stays_while_another_session_holds_its_link(docora: Docora) -> None:
    link = docora.add_link()
    docora.leave_job(link.job_id, JobStatus.FAILED)
    actions = docora.actions(lock_timeout=1)
    before = footprint(docora, link.job_id)
    with docora.connection.transaction():
        docora.connection.execute("SELECT FROM app_repositories FOR UPDATE")
        result = actions.retry_all()
    assert result.counts == {Outcome.NOT_QUEUED: 1}
    assert footprint(docora, link.job_id) == before
    assert docora.waiting() == []
