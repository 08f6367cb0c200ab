"""Drift of every kind is found and repaired, and nothing else is drift."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.utils import now

from docora_ops.actions.batch import STUCK_ERROR
from docora_ops.actions.find_drift import Suspects, find_drift
from docora_ops.drift import DriftKind, RepairOutcome, RepairResult
from docora_ops.errors import RedisError
from tests.support.docora import INTERMEDIATE, QUEUE, Docora
from tests.support.rows import TestLink

LOST, STUCK, ORPHAN, DUPLICATE, STALE = DriftKind
QUEUED, REMOVED, LEFT_ALONE = (
    *(RepairOutcome.QUEUED, RepairOutcome.REMOVED),
    RepairOutcome.LEFT_ALONE,
)
LATER = now().timestamp() + 10**6
Arrange = Callable[[Docora], TestLink]


def registry(name: str) -> str:
    return f"rq:{name}:{QUEUE}"


# A way to make each kind of drift


def never_queued(docora: Docora) -> TestLink:
    return docora.add_link("pending_snapshot", retry_count=2, last_error="said before")


def cut_off(docora: Docora) -> TestLink:
    return docora.add_link("scanning", retry_count=2, last_error="said before")


def killed(docora: Docora) -> TestLink:
    link = cut_off(docora)
    docora.start_job(link.job_id, heartbeat=-10)
    return link


def failed_job(docora: Docora) -> TestLink:
    link = never_queued(docora)
    docora.leave_job(link.job_id, JobStatus.FAILED)
    return link


def queued(docora: Docora, *places: str) -> TestLink:
    """No drift yet; with `places`, it stands there instead of in the list."""
    link = docora.add_link()
    docora.queue_job(link)
    if places:
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
    for name in filter(None, places):
        docora.redis.hset(Job.key_for(link.job_id), "status", name)
        docora.redis.zadd(registry(name), {link.job_id: LATER})
    return link


def in_no_list(docora: Docora) -> TestLink:
    """As after a DEL of the queue by hand."""
    return queued(docora, "")


def orphaned(docora: Docora, *places: str) -> TestLink:
    link = queued(docora, *places)
    docora.delete_link(link)
    return link


def orphaned_in_schedule(docora: Docora) -> TestLink:
    return orphaned(docora, "scheduled")


def orphaned_and_failed(docora: Docora) -> TestLink:
    return orphaned(docora, "failed")


def orphaned_without_repository(docora: Docora) -> TestLink:
    link = orphaned(docora)
    docora.connection.execute(
        "DELETE FROM repositories WHERE repository_id = %s", (link.repository_id,)
    )
    return link


def thrice(docora: Docora) -> TestLink:
    link = queued(docora)
    docora.redis.rpush(docora.queue.key, link.job_id, link.job_id)
    return link


def scheduled_too(docora: Docora) -> TestLink:
    link = queued(docora)
    docora.redis.zadd(registry("scheduled"), {link.job_id: LATER})
    return link


def entry_in(name: str) -> Arrange:
    """Of a job that is gone, for a link that has none."""

    def arrange(docora: Docora) -> TestLink:
        link = docora.add_link("synced")
        docora.redis.zadd(registry(name), {link.job_id: LATER})
        return link

    return arrange


def entry_of_waiting_job(docora: Docora) -> TestLink:
    """A plain enqueue over a failed job leaves it behind."""
    link = failed_job(docora)
    docora.enqueue(link.job_id)
    return link


def place_without_job(docora: Docora) -> TestLink:
    link = docora.add_link("synced")
    docora.redis.rpush(docora.queue.key, link.job_id, link.job_id)
    return link


def dead_run_without_job(docora: Docora) -> TestLink:
    link = docora.add_link("synced")
    docora.start_job(link.job_id, heartbeat=-10)
    docora.redis.delete(Job.key_for(link.job_id))
    return link


DRIFT: dict[Arrange, DriftKind] = {
    **dict.fromkeys((never_queued, in_no_list, failed_job), LOST),
    **dict.fromkeys((killed, cut_off), STUCK),
    **dict.fromkeys((orphaned, orphaned_without_repository), ORPHAN),
    **dict.fromkeys((orphaned_in_schedule, orphaned_and_failed), ORPHAN),
    **dict.fromkeys((thrice, scheduled_too), DUPLICATE),
    **dict.fromkeys((entry_in("failed"), entry_in("scheduled"), entry_of_waiting_job), STALE),
    **dict.fromkeys((place_without_job, dead_run_without_job), STALE),
}


def traces(docora: Docora, link: TestLink) -> list[str]:
    """Everything in Redis that names the job."""
    keys = cast("list[bytes]", docora.redis.keys())
    found = [key.decode() for key in keys if link.job_id.encode() in key]
    found += [each for each in docora.waiting() if each == link.job_id]
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
        link.job_id: (kind, QUEUED if kind in {LOST, STUCK} else REMOVED)
        for link, kind in links.items()
    }
    assert repaired(result) == done == repaired(planned)
    assert result.total == len(links)
    waits_with_entry = list(links)[list(DRIFT).index(entry_of_waiting_job)]
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
    taken = orphaned(docora)
    docora.redis.lrem(docora.queue.key, 0, taken.job_id)
    docora.redis.rpush(INTERMEDIATE, taken.job_id)
    docora.redis.zadd(registry("failed"), {taken.job_id: LATER})
    doubled, stale, again = (docora.add_link("synced") for _ in range(3))
    docora.enqueue(doubled.job_id)
    docora.enqueue(doubled.job_id)
    docora.leave_job(stale.job_id, JobStatus.FAILED).set_status(JobStatus.FINISHED)
    for link in (doubled, stale):
        docora.hold_lock(link.job_id)
    docora.start_job(again.job_id)
    docora.enqueue(again.job_id)
    docora.redis.zadd(registry("scheduled"), {again.job_id: LATER})


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
    docora.redis.zadd(registry("finished"), {docora.add_link("synced").job_id: 1})
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
    docora.hold_lock(orphaned(docora).job_id)
    with docora.redis.pipeline() as pipeline:
        Execution.create(docora.job(orphaned(docora)), 90, pipeline, worker_name="worker-1")
        pipeline.execute()
    # Not ours.
    for job_id in ("app_1-repo_1", "5f6c3d1e-0000-4000-8000-000000000000", "nightly"):
        docora.enqueue(job_id)
        docora.redis.rpush(docora.queue.key, job_id)
        docora.redis.zadd(registry("failed"), {job_id: LATER, f"{job_id}-gone": LATER})
        docora.redis.rpush(docora.queue.key, f"{job_id}-gone")
    docora.redis.rpush(docora.queue.key, "un\x00sound")
    docora.redis.zadd(registry("failed"), {b"\xff\xfe": LATER})


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


def test_the_pause_before_the_second_look_is_told_each_second_and_holds_nothing(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = in_no_list(docora)
    docora.age_links()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(round(seconds, 1))
        assert docora.sessions("state <> 'idle'") == 0

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: sum(waits))
    monkeypatch.setattr("docora_ops.actions.find_drift.time", clock)
    actions = docora.actions()
    *pauses, found = find_drift(actions.database, actions.queue, delay=2.5)
    assert waits == [1, 1, 0.5]
    assert pauses == [Suspects(1)] * 4
    assert isinstance(found, list)
    assert [finding.drift.job_id for finding in found] == [link.job_id]


# What is repaired


def test_what_changes_before_it_is_repaired_is_left_alone(docora: Docora) -> None:
    arranged = {arrange: arrange(docora) for arrange in DRIFT}
    docora.age_links()
    actions = docora.actions()

    def taken(link: TestLink) -> None:
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
        docora.redis.rpush(INTERMEDIATE, link.job_id)

    changes: dict[Arrange, Callable[[TestLink], object]] = {
        never_queued: docora.queue_job,
        in_no_list: lambda link: docora.set_link(link, status="failed"),
        failed_job: lambda link: docora.hold_lock(link.job_id),
        killed: lambda link: docora.start_job(link.job_id),
        cut_off: lambda link: docora.enqueue(link.job_id),
        orphaned: lambda link: docora.link(*link.ids),
        orphaned_without_repository: taken,
        thrice: lambda link: docora.redis.lrem(docora.queue.key, -2, link.job_id),
        scheduled_too: lambda link: docora.redis.zrem(registry("scheduled"), link.job_id),
        entry_of_waiting_job: lambda link: docora.start_job(link.job_id),
        place_without_job: lambda link: docora.enqueue(link.job_id),
    }

    def meanwhile() -> None:
        for arrange, change in changes.items():
            change(arranged[arrange])

    result = repaired(actions.repair(prepare=meanwhile))
    for arrange, link in arranged.items():
        left_alone = result[link.job_id][1] is LEFT_ALONE
        assert left_alone is (arrange in changes), (arrange, result[link.job_id])
    assert docora.status(arranged[in_no_list]) == "failed"
    assert docora.status(arranged[killed]) == "scanning"
    assert docora.status(arranged[cut_off]) == "scanning"
    assert docora.row(arranged[failed_job])["retry_count"] == 2
    assert arranged[orphaned].job_id in docora.waiting()


def test_no_link_is_made_while_its_old_job_is_removed(docora: Docora) -> None:
    """Its producer would find the job waiting, and leave it at that."""
    link = orphaned(docora)
    other = orphaned(docora)
    with docora.connection.transaction():
        # Somebody is just making the link anew.
        docora.link(link.app_id, link.repository_id, "pending_snapshot")
        actions = docora.actions(lock_timeout=1)
        result = actions.repair()
        assert repaired(result) == {
            link.job_id: (ORPHAN, LEFT_ALONE),
            other.job_id: (ORPHAN, REMOVED),
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
    assert by_app[good.app_id].outcome is QUEUED
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
    chosen = (never_queued, killed, thrice, orphaned)
    arranged = {arrange: arrange(docora) for arrange in chosen}
    docora.age_links()
    new = docora.add_link("pending_snapshot")
    actions = docora.actions()
    for arrange, link in arranged.items():
        ref = None if arrange is orphaned else actions.ref(link)
        alone = actions.repair(app_id=link.app_id, ref=ref)
        assert repaired(alone).keys() == {link.job_id}, arrange
    # One that is asked for by name need not be five minutes old.
    assert len(actions.repair(app_id=new.app_id).repaired) == 0
    assert len(actions.repair(app_id=new.app_id, ref=actions.ref(new)).repaired) == 1


def test_entries_are_removed_where_they_stand_now(docora: Docora) -> None:
    first, second, taken, orphan = links = [docora.add_link("synced") for _ in range(4)]
    docora.redis.rpush(docora.queue.key, taken.job_id, "other", orphan.job_id)
    for link in links:
        docora.queue_job(link)
    docora.redis.rpush(docora.queue.key, first.job_id, second.job_id)
    docora.delete_link(orphan)
    changed = docora.add_link("synced")
    docora.enqueue(changed.job_id)
    docora.redis.zadd(registry("failed"), {changed.job_id: LATER})

    def meanwhile() -> None:
        docora.job(changed).set_status(JobStatus.FAILED)
        assert docora.redis.lpop(docora.queue.key) == taken.job_id.encode()
        docora.redis.lpush(docora.queue.key, "at the head")
        docora.redis.rpush(docora.queue.key, "late", "later", "latest")

    result = docora.actions().repair(prepare=meanwhile)
    assert {item.drift.job_id: item.outcome for item in result.repaired} == {
        **{link.job_id: REMOVED for link in (first, second, orphan)},
        **{link.job_id: LEFT_ALONE for link in (taken, changed)},
    }
    kept = ["at the head", "other", first.job_id, second.job_id, taken.job_id]
    assert docora.waiting() == [*kept, changed.job_id, "late", "later", "latest"]


def test_a_job_with_two_kinds_of_drift_is_repaired_at_once(docora: Docora) -> None:
    link = thrice(docora)
    docora.redis.zadd(registry("finished"), {link.job_id: LATER})
    result = docora.actions().repair()
    assert result.counts == {REMOVED: 2}, result.repaired
    assert docora.waiting() == [link.job_id]


def test_where_redis_is_out_of_memory_nothing_is_half_done(docora: Docora) -> None:
    links = [orphaned(docora), thrice(docora), never_queued(docora)]
    docora.age_links()
    actions = docora.actions()
    before = docora.dump()
    try:
        with pytest.raises(RedisError, match="out of memory"):
            actions.repair(prepare=lambda: docora.redis.config_set("maxmemory", "1mb"))
    finally:
        docora.redis.config_set("maxmemory", "0")
    assert docora.dump() == before
    assert len(actions.repair().repaired) == len(links)
