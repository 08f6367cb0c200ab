"""Drift of every kind is found and repaired, and nothing else is drift."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.utils import now

from docora_ops.actions.drift import DriftKind, Suspects, find_drift
from docora_ops.actions.repairs import STUCK_ERROR, RepairOutcome, RepairResult
from docora_ops.errors import RedisError
from tests.support.actions import both_looks
from tests.support.docora import INTERMEDIATE, QUEUE, Docora
from tests.support.job_states import (
    Arrange,
    all_of,
    entry_in,
    hash_gone,
    heartbeat_expired,
    in_the_intermediate_list,
    left,
    not_in_the_list,
    reads,
    scheduled,
    started,
    taken_by_a_worker_that_died,
)
from tests.support.read_only import frozen
from tests.support.rows import TestLink

LOST, STUCK, ORPHAN, DUPLICATE, STALE = DriftKind
QUEUED, REMOVED, LEFT_ALONE = (
    *(RepairOutcome.QUEUED, RepairOutcome.REMOVED),
    RepairOutcome.LEFT_ALONE,
)
LATER = now().timestamp() + 10**6


def registry(name: str) -> str:
    return f"rq:{name}:{QUEUE}"


def repository_gone(docora: Docora, job_id: str) -> None:
    docora.connection.execute(
        "DELETE FROM repositories WHERE repository_id = %s", (job_id.partition("-")[2],)
    )


def moved_to(registry: type[Any], status: JobStatus) -> Arrange:
    return all_of(not_in_the_list, reads(status=status.value), entry_in(registry))


def executed(docora: Docora, job_id: str) -> None:
    job = Job.fetch(job_id, connection=docora.redis)
    with docora.redis.pipeline() as pipeline:
        Execution.create(job, 90, pipeline, worker_name="worker-1")
        pipeline.execute()


NO_LINK = "its link is gone"
DRIFT: dict[str, tuple[DriftKind, str, Arrange]] = {
    "never queued": (LOST, "pending_snapshot", all_of()),
    "in no list": (LOST, "pending_snapshot", all_of(Docora.enqueue, not_in_the_list)),
    "failed job": (LOST, "pending_snapshot", left(JobStatus.FAILED)),
    "killed": (STUCK, "scanning", heartbeat_expired),
    "cut off": (STUCK, "scanning", all_of()),
    "orphan": (ORPHAN, NO_LINK, all_of()),
    "orphan without repository": (ORPHAN, NO_LINK, repository_gone),
    "scheduled orphan": (ORPHAN, NO_LINK, moved_to(ScheduledJobRegistry, JobStatus.SCHEDULED)),
    "failed orphan": (ORPHAN, NO_LINK, moved_to(FailedJobRegistry, JobStatus.FAILED)),
    "thrice": (DUPLICATE, "pending_snapshot", all_of(*[Docora.enqueue] * 3)),
    "scheduled too": (
        *(DUPLICATE, "pending_snapshot"),
        all_of(Docora.enqueue, entry_in(ScheduledJobRegistry)),
    ),
    "failed entry": (STALE, "synced", entry_in(FailedJobRegistry)),
    "scheduled entry": (STALE, "synced", entry_in(ScheduledJobRegistry)),
    "entry of a waiting job": (
        *(STALE, "pending_snapshot"),
        all_of(left(JobStatus.FAILED), Docora.enqueue),
    ),
    "places without a job": (STALE, "synced", all_of(*[Docora.enqueue] * 2, hash_gone)),
    "dead run without a job": (STALE, "synced", all_of(heartbeat_expired, hash_gone)),
}
"""By name: the kind, the link's status, and how its job comes into that state."""


def drifted(docora: Docora, name: str) -> TestLink:
    _, status, arrange = DRIFT[name]
    status = "failed" if status == NO_LINK else status
    link = docora.add_link(status, retry_count=2, last_error="said before")
    if DRIFT[name][0] is ORPHAN:
        docora.queue_job(link)
        docora.delete_link(link)
    arrange(docora, link.job_id)
    return link


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
    links = {drifted(docora, name): kind for name, (kind, *_) in DRIFT.items()}
    docora.age_links()
    actions = docora.actions()
    with frozen(docora):
        report = actions.drift()
        planned = actions.repair(dry_run=True)
    expected = {kind: list(links.values()).count(kind) for kind in DriftKind}
    assert report.by_kind == expected
    told = docora.run("doctor", "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"}).data["drift"]
    assert (told["total"], told["counts"]) == (len(links), expected)
    examples = [drift["kind"] for drift in told["examples"]]
    assert examples == [kind for kind in DriftKind for _ in range(min(expected[kind], 5))]
    for drift in report.drifts:
        assert links[TestLink(drift.app_id, drift.repository_id)] is drift.kind

    result = actions.repair()
    done = {
        link.job_id: (kind, QUEUED if kind in {LOST, STUCK} else REMOVED)
        for link, kind in links.items()
    }
    assert repaired(result) == done == repaired(planned)
    assert result.total == len(links)
    waits_with_entry = list(links)[list(DRIFT).index("entry of a waiting job")]
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
    with frozen(docora):
        assert not actions.drift().total
        assert len(actions.repair().repaired) == 0


# No drift


HEALTHY: list[tuple[str, Arrange]] = [
    ("pending_snapshot", Docora.enqueue),
    ("scanning", started),
    ("pending_snapshot", started),  # about to begin
    ("pending_snapshot", scheduled),
    ("pending_snapshot", left(JobStatus.DEFERRED)),
    ("pending_snapshot", in_the_intermediate_list),
    ("scanning", Docora.enqueue),  # its last run was killed
    ("scanning", Docora.hold_lock),
    ("synced", left(JobStatus.FINISHED)),
    ("synced", left(JobStatus.FAILED)),
    ("synced", left(JobStatus.CANCELED)),
    ("synced", heartbeat_expired),  # RQ's own cleanup has yet to come by
    # A worker has just taken each job, so what else there is of it may be about to go.
    ("synced", all_of(Docora.enqueue, Docora.enqueue, Docora.hold_lock)),
    ("synced", all_of(left(JobStatus.FAILED), reads(status="finished"), Docora.hold_lock)),
    ("synced", all_of(started, Docora.enqueue, entry_in(ScheduledJobRegistry))),
    # Somebody has deleted the job while it runs.
    ("synced", all_of(Docora.enqueue, started, hash_gone)),
]
AT_WORK: list[Arrange] = [
    all_of(not_in_the_list, taken_by_a_worker_that_died, entry_in(FailedJobRegistry)),
    Docora.hold_lock,
    executed,
]
"""Of jobs whose links are gone."""


def test_nothing_is_wrong_with_a_busy_queue_and_jobs_of_others(docora: Docora) -> None:
    for status, arrange in HEALTHY:
        arrange(docora, docora.add_link(status).job_id)
    docora.redis.zadd(registry("finished"), {docora.add_link("synced").job_id: 1})
    gone = docora.add_link("synced")
    docora.leave_job(gone.job_id, JobStatus.FINISHED)
    docora.delete_link(gone)
    for arrange in AT_WORK:
        arrange(docora, drifted(docora, "orphan").job_id)
    docora.age_links()
    docora.add_link("pending_snapshot")  # new
    # Not ours.
    for job_id in ("app_1-repo_1", "5f6c3d1e-0000-4000-8000-000000000000", "nightly"):
        docora.enqueue(job_id)
        docora.redis.rpush(docora.queue.key, job_id, f"{job_id}-gone")
        docora.redis.zadd(registry("failed"), {job_id: LATER, f"{job_id}-gone": LATER})
    docora.redis.rpush(docora.queue.key, "un\x00sound")
    docora.redis.zadd(registry("failed"), {b"\xff\xfe": LATER})
    actions = docora.actions()
    with frozen(docora):
        assert dict(actions.drift().by_kind) == dict.fromkeys(DriftKind, 0)
        assert len(actions.repair().repaired) == 0


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
    link = drifted(docora, "in no list")
    docora.age_links()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(round(seconds, 1))
        assert docora.sessions("state <> 'idle'") == 0

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: sum(waits))
    monkeypatch.setattr("docora_ops.actions.drift.time", clock)
    pauses: list[Suspects] = []
    findings = both_looks(find_drift(docora.actions(drift_grace=2).docora), pauses.append)
    assert waits == [1, 1]
    assert pauses == [Suspects(1)] * 3
    assert [finding.drift.job_id for finding in findings] == [link.job_id]


# What is repaired


def test_what_changes_before_it_is_repaired_is_left_alone(docora: Docora) -> None:
    arranged = {name: drifted(docora, name) for name in DRIFT}
    docora.age_links()
    actions = docora.actions()

    def taken(link: TestLink) -> None:
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
        docora.redis.rpush(INTERMEDIATE, link.job_id)

    changes: dict[str, Callable[[TestLink], object]] = {
        "never queued": docora.queue_job,
        "in no list": lambda link: docora.set_link(link, status="failed"),
        "failed job": lambda link: docora.hold_lock(link.job_id),
        "killed": lambda link: docora.start_job(link.job_id),
        "cut off": lambda link: docora.enqueue(link.job_id),
        "orphan": lambda link: docora.link(*link.ids),
        "orphan without repository": taken,
        "thrice": lambda link: docora.redis.lrem(docora.queue.key, -2, link.job_id),
        "scheduled too": lambda link: docora.redis.zrem(registry("scheduled"), link.job_id),
        "entry of a waiting job": lambda link: docora.start_job(link.job_id),
        "places without a job": lambda link: docora.enqueue(link.job_id),
    }

    def meanwhile() -> None:
        for name, change in changes.items():
            change(arranged[name])

    result = repaired(actions.repair(prepare=meanwhile))
    for name, link in arranged.items():
        left_alone = result[link.job_id][1] is LEFT_ALONE
        assert left_alone is (name in changes), (name, result[link.job_id])
    assert docora.status(arranged["in no list"]) == "failed"
    assert docora.status(arranged["killed"]) == "scanning"
    assert docora.status(arranged["cut off"]) == "scanning"
    assert docora.row(arranged["failed job"])["retry_count"] == 2
    assert arranged["orphan"].job_id in docora.waiting()


def test_no_link_is_made_while_its_old_job_is_removed(docora: Docora) -> None:
    """Its producer would find the job waiting, and leave it at that."""
    link = drifted(docora, "orphan")
    other = drifted(docora, "orphan")
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
    invalid = docora.link(docora.add_app(), docora.add_repository("o/r", "r.x"), "pending_snapshot")
    unreadable = docora.add_link("scanning")
    docora.redis.set(Job.key_for(unreadable.job_id), "not a hash")
    # Its job id could be read as that of another link.
    dashed = docora.link(docora.add_app("1", "a-b"), docora.add_repository("o/1", "c"), "scanning")
    docora.enqueue(dashed.job_id)
    docora.age_links()
    rows = [docora.row(link) for link in (invalid, unreadable, dashed)]
    result = docora.actions().repair()
    assert result.by_kind == {LOST: 2, STUCK: 2, ORPHAN: 0, DUPLICATE: 0, STALE: 0}
    by_app = {item.drift.app_id: (item.outcome, item.error_message) for item in result.repaired}
    assert by_app.pop(good.app_id) == (QUEUED, None)
    for link, error in {
        invalid: "can't form a job id",
        unreadable: "does not hold a job",
        dashed: "can't form a job id",
    }.items():
        outcome, message = by_app[link.app_id]
        assert (outcome, error in str(message)) == (RepairOutcome.NOT_REPAIRED, True)
    assert docora.waiting() == [dashed.job_id, good.job_id]
    assert [docora.row(link) for link in (invalid, unreadable, dashed)] == rows


def test_an_app_or_a_link_alone_is_looked_at_and_repaired(docora: Docora) -> None:
    chosen = ("never queued", "killed", "thrice", "orphan")
    arranged = {name: drifted(docora, name) for name in chosen}
    docora.age_links()
    new = docora.add_link("pending_snapshot")
    actions = docora.actions()
    for name, link in arranged.items():
        ref = None if name == "orphan" else actions.ref(link)
        alone = actions.repair(app_id=link.app_id, ref=ref)
        assert repaired(alone).keys() == {link.job_id}, name
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
    link = drifted(docora, "thrice")
    docora.redis.zadd(registry("finished"), {link.job_id: LATER})
    result = docora.actions().repair()
    assert (result.counts[REMOVED], len(result.repaired)) == (2, 2), result.repaired
    assert docora.waiting() == [link.job_id]


def test_where_redis_is_out_of_memory_nothing_is_half_done(docora: Docora) -> None:
    names = ("failed orphan", "failed entry", "thrice", "never queued")
    links = [drifted(docora, name) for name in names]
    docora.age_links()
    actions = docora.actions()
    before = docora.dump()
    try:
        with pytest.raises(RedisError, match="out of memory"):
            actions.repair(prepare=lambda: docora.redis.config_set("maxmemory", "1"))
    finally:
        docora.redis.config_set("maxmemory", "0")
    assert docora.dump() == before
    assert len(actions.repair().repaired) == len(links)
