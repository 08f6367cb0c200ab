"""Drift of every kind is found and repaired, and nothing else is drift."""

from collections import Counter
from typing import cast

from rq.executions import Execution
from rq.job import Job, JobStatus

from docora_ops.actions.batch import STUCK_ERROR
from docora_ops.drift import DriftKind, RepairOutcome, RepairResult
from tests.repair import kinds_of_drift as kinds
from tests.repair.kinds_of_drift import DRIFT, DUPLICATE, LATER, LOST, ORPHAN, STALE, STUCK
from tests.support.docora import INTERMEDIATE, Docora
from tests.support.rows import TestLink


def traces(docora: Docora, link: TestLink) -> list[str]:
    """Everything in Redis that names the job."""
    found = [
        key.decode()
        for key in cast("list[bytes]", docora.redis.keys())
        if link.job_id.encode() in key
    ]
    if link.job_id in docora.waiting():
        found.append("list")
    if link.job_id.encode() in docora.redis.lrange(INTERMEDIATE, 0, -1):
        found.append("intermediate")
    return found + sorted(docora.registries(link.job_id))


def repaired(result: RepairResult) -> dict[str, tuple[DriftKind, RepairOutcome]]:
    return {item.drift.job_id: (item.drift.kind, item.outcome) for item in result.repaired}


def test_drift_of_every_kind_is_seen_and_repaired_and_gone(docora: Docora) -> None:
    links = {arrange(docora): kind for arrange, kind in DRIFT.items()}
    docora.age_links()
    actions = docora.actions()
    before = docora.dump()
    report = actions.drift()
    planned = actions.repair(dry_run=True)
    assert docora.dump() == before
    assert report.total
    expected = {kind: list(links.values()).count(kind) for kind in DriftKind}
    assert report.found == expected
    examples = Counter(drift.kind for drift in report.examples())
    assert examples == {kind: min(count, 5) for kind, count in expected.items()}
    for drift in report.drifts:
        assert links[TestLink(drift.app_id, drift.repository_id)] is drift.kind

    result = actions.repair()
    done = {
        link.job_id: (
            kind,
            RepairOutcome.QUEUED if kind in {LOST, STUCK} else RepairOutcome.REMOVED,
        )
        for link, kind in links.items()
    }
    assert repaired(result) == done == repaired(planned)
    assert result.total == len(links)
    waits_with_entry = list(links)[list(DRIFT).index(kinds.entry_of_waiting_job)]
    for link, kind in links.items():
        if kind in {LOST, STUCK}:
            assert docora.status(link) == "pending_snapshot"
            assert docora.job(link).get_status() is JobStatus.QUEUED
        if kind in {LOST, STUCK, DUPLICATE} or link is waits_with_entry:
            assert docora.waiting().count(link.job_id) == 1, link
            assert docora.registries(link.job_id) == set()
        elif kind is ORPHAN:
            assert traces(docora, link) == []
    # A stuck link counts a failure.
    kept = [docora.row(link) for link in links if links[link] is STUCK]
    assert [(row["retry_count"], row["last_error"]) for row in kept] == [(3, STUCK_ERROR)] * 2
    docora.assert_sound()

    after = docora.dump()
    assert not actions.drift().total
    assert len(actions.repair().repaired) == 0
    assert docora.dump() == after


# No drift


def at_work(docora: Docora) -> None:
    """A worker has just taken each job, so what else there is of it may be about to go."""
    taken = kinds.orphaned(docora)
    docora.redis.lrem(docora.queue.key, 0, taken.job_id)
    docora.redis.rpush(INTERMEDIATE, taken.job_id)
    docora.redis.zadd(kinds.registry("failed"), {taken.job_id: LATER})
    doubled, stale, again = (docora.add_link("synced") for _ in range(3))
    docora.enqueue(doubled.job_id)
    docora.enqueue(doubled.job_id)
    docora.leave_job(stale.job_id, JobStatus.FAILED).set_status(JobStatus.FINISHED)
    for link in (doubled, stale):
        docora.hold_lock(link.job_id)
    docora.start_job(again.job_id)
    docora.enqueue(again.job_id)
    docora.redis.zadd(kinds.registry("scheduled"), {again.job_id: LATER})


def healthy(docora: Docora) -> None:
    """Every state that all is well in, and jobs of somebody else's."""
    docora.queue_job(docora.add_link())
    docora.start_job(docora.add_link("scanning").job_id)
    docora.start_job(docora.add_link("pending_snapshot").job_id)  # about to begin
    docora.schedule_job(docora.add_link("pending_snapshot").job_id)
    docora.leave_job(docora.add_link("pending_snapshot").job_id, JobStatus.DEFERRED)
    docora.enqueue(docora.add_link("scanning").job_id)  # its last run was killed
    for status in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELED):
        docora.leave_job(docora.add_link("synced").job_id, status)
    in_hand = docora.add_link("pending_snapshot")
    docora.leave_job(in_hand.job_id, JobStatus.QUEUED)
    docora.redis.rpush(INTERMEDIATE, in_hand.job_id)
    held = docora.add_link("scanning")
    docora.hold_lock(held.job_id)
    # RQ's own cleanup has yet to come by.
    docora.redis.zadd(kinds.registry("finished"), {docora.add_link("synced").job_id: 1})
    docora.start_job(docora.add_link("synced").job_id, heartbeat=-10)
    # History.
    gone = docora.add_link("synced")
    docora.leave_job(gone.job_id, JobStatus.FINISHED)
    docora.delete_link(gone)
    docora.age_links()
    docora.add_link("pending_snapshot")  # new
    # Somebody has deleted the job while it runs.
    deleted = docora.add_link("synced")
    docora.start_job(deleted.job_id)
    docora.redis.delete(Job.key_for(deleted.job_id))
    docora.redis.rpush(docora.queue.key, deleted.job_id)
    # Their links are gone, but they are at work.
    docora.hold_lock(kinds.orphaned(docora).job_id)
    with docora.redis.pipeline() as pipeline:
        Execution.create(docora.job(kinds.orphaned(docora)), 90, pipeline, worker_name="worker-1")
        pipeline.execute()
    # Not ours.
    for job_id in ("app_1-repo_1", "5f6c3d1e-0000-4000-8000-000000000000", "nightly"):
        docora.enqueue(job_id)
        docora.redis.rpush(docora.queue.key, job_id)
        docora.redis.zadd(kinds.registry("failed"), {job_id: LATER, f"{job_id}-gone": LATER})
        docora.redis.rpush(docora.queue.key, f"{job_id}-gone")
    docora.redis.rpush(docora.queue.key, "un\x00sound")
    docora.redis.zadd(kinds.registry("failed"), {b"\xff\xfe": LATER})


def test_nothing_is_wrong_with_a_busy_queue_and_jobs_of_others(docora: Docora) -> None:
    healthy(docora)
    at_work(docora)
    before = docora.dump()
    actions = docora.actions()
    assert dict(actions.drift().found) == dict.fromkeys(DriftKind, 0)
    assert len(actions.repair().repaired) == 0
    assert docora.dump() == before


def test_what_changes_between_the_looks_is_not_counted(docora: Docora) -> None:
    lost, waits, taken, finished, removed = (docora.add_link("pending_snapshot") for _ in range(5))
    for link in (waits, taken, removed):
        docora.enqueue(link.job_id)
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
    docora.age_links()

    def meanwhile() -> None:
        docora.enqueue(waits.job_id)
        docora.redis.lrem(docora.queue.key, 0, waits.job_id)  # in another worker's hand
        docora.redis.delete(Job.key_for(taken.job_id))
        docora.start_job(taken.job_id)
        docora.set_link(finished, status="synced")
        docora.delete_link(removed)
        docora.redis.delete(Job.key_for(removed.job_id))

    actions = docora.actions()
    found = actions.find(between_looks=meanwhile)
    assert [finding.drift.job_id for finding in found] == [lost.job_id]


# RepairOutcome


def test_what_changes_before_it_is_repaired_is_left_alone(docora: Docora) -> None:
    arranged = {arrange: arrange(docora) for arrange in DRIFT}
    docora.age_links()
    actions = docora.actions()

    def meanwhile() -> None:
        docora.queue_job(arranged[kinds.never_queued])
        docora.set_link(arranged[kinds.in_no_list], status="failed")
        docora.hold_lock(arranged[kinds.failed_job].job_id)
        docora.start_job(arranged[kinds.killed].job_id)
        docora.enqueue(arranged[kinds.cut_off].job_id)
        docora.link(arranged[kinds.orphaned].app_id, arranged[kinds.orphaned].repository_id)
        docora.redis.lrem(docora.queue.key, 0, arranged[kinds.orphaned_without_repository].job_id)
        docora.redis.rpush(INTERMEDIATE, arranged[kinds.orphaned_without_repository].job_id)
        docora.redis.lrem(docora.queue.key, -2, arranged[kinds.thrice].job_id)
        docora.redis.zrem(kinds.registry("scheduled"), arranged[kinds.scheduled_too].job_id)
        docora.start_job(arranged[kinds.entry_of_waiting_job].job_id)
        docora.enqueue(arranged[kinds.place_without_job].job_id)

    changed = [
        *(kinds.never_queued, kinds.in_no_list, kinds.failed_job, kinds.killed, kinds.cut_off),
        *(kinds.orphaned, kinds.orphaned_without_repository, kinds.thrice, kinds.scheduled_too),
        *(kinds.entry_of_waiting_job, kinds.place_without_job),
    ]
    result = repaired(actions.repair(prepare=meanwhile))
    for arrange, link in arranged.items():
        left_alone = result[link.job_id][1] is RepairOutcome.LEFT_ALONE
        assert left_alone is (arrange in changed), (arrange, result[link.job_id])
    assert docora.status(arranged[kinds.in_no_list]) == "failed"
    assert docora.status(arranged[kinds.killed]) == "scanning"
    assert docora.status(arranged[kinds.cut_off]) == "scanning"
    assert docora.row(arranged[kinds.failed_job])["retry_count"] == 2
    assert arranged[kinds.orphaned].job_id in docora.waiting()


def test_no_link_is_made_while_its_old_job_is_removed(docora: Docora) -> None:
    """Its producer would find the job waiting, and leave it at that."""
    link = kinds.orphaned(docora)
    other = kinds.orphaned(docora)
    with docora.connection.transaction():
        # Somebody is just making the link anew.
        docora.link(link.app_id, link.repository_id, "pending_snapshot")
        actions = docora.actions(lock_timeout=1)
        result = actions.repair()
        assert repaired(result) == {
            link.job_id: (ORPHAN, RepairOutcome.LEFT_ALONE),
            other.job_id: (ORPHAN, RepairOutcome.REMOVED),
        }
    assert docora.waiting() == [link.job_id]
    assert not actions.drift().total


def test_poison_costs_only_itself(docora: Docora) -> None:
    docora.redis.sadd("rq:queues", docora.queue.key)
    good = docora.add_link("pending_snapshot")
    invalid = docora.link(
        docora.add_app(), docora.add_repository(repository_id="repo.x"), "pending_snapshot"
    )
    unreadable = docora.add_link("scanning")
    docora.redis.set(Job.key_for(unreadable.job_id), "not a hash")
    # Its job id could be read as that of another link.
    dashed = docora.link(docora.add_app("1", "a-b"), docora.add_repository("o/1", "c"), "scanning")
    docora.enqueue(dashed.job_id)
    docora.age_links()
    result = docora.actions().repair()
    assert result.found == {LOST: 2, STUCK: 2, ORPHAN: 0, DUPLICATE: 0, STALE: 0}
    by_app = {item.drift.app_id: item for item in result.repaired}
    assert by_app[good.app_id].outcome is RepairOutcome.QUEUED
    for link, error in {
        invalid: "can't form a job id",
        unreadable: "does not hold a job",
        dashed: "can't form a job id",
    }.items():
        item = by_app[link.app_id]
        assert item.outcome is RepairOutcome.NOT_REPAIRED
        assert error in (item.error_message or "")
    assert docora.waiting() == [dashed.job_id, good.job_id]
    assert docora.status(invalid) == "pending_snapshot"
    assert (docora.status(unreadable), docora.status(dashed)) == ("scanning", "scanning")


def test_an_app_or_a_link_alone_is_looked_at_and_repaired(docora: Docora) -> None:
    chosen = (kinds.never_queued, kinds.killed, kinds.thrice, kinds.orphaned)
    arranged = {arrange: arrange(docora) for arrange in chosen}
    docora.age_links()
    new = docora.add_link("pending_snapshot")
    actions = docora.actions()
    for arrange, link in arranged.items():
        ref = None if arrange is kinds.orphaned else actions.ref(link)
        alone = actions.repair(app_id=link.app_id, ref=ref)
        assert repaired(alone).keys() == {link.job_id}, arrange
    # One that is asked for by name need not be five minutes old.
    assert len(actions.repair(app_id=new.app_id).repaired) == 0
    assert len(actions.repair(app_id=new.app_id, ref=actions.ref(new)).repaired) == 1
