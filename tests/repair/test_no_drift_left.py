"""A repair removes what it has found, and only if it stands there still."""

import pytest
from rq.job import JobStatus
from rq.registry import FailedJobRegistry
from rq.utils import now

from docora_ops.drift import RepairOutcome
from docora_ops.queue import sweep
from docora_ops.queue.sweep import Place, QueueSweep
from tests.support.docora import QUEUE, Docora


def test_entries_are_removed_where_they_stand_now(
    docora: Docora,
) -> None:
    first, second, taken, orphan = links = [docora.add_link("synced") for _ in range(4)]
    docora.redis.rpush(docora.queue.key, taken.job_id, "other", orphan.job_id)
    for link in links:
        docora.queue_job(link)
    docora.redis.rpush(docora.queue.key, *(link.job_id for link in (first, second)))
    docora.delete_link(orphan)
    changed = docora.add_link("synced")
    docora.enqueue(changed.job_id)
    failed = FailedJobRegistry(QUEUE, connection=docora.redis).key
    docora.redis.zadd(failed, {changed.job_id: now().timestamp() + 3600})

    def meanwhile() -> None:
        docora.job(changed).set_status(JobStatus.FAILED)
        assert docora.redis.lpop(docora.queue.key) == taken.job_id.encode()
        docora.redis.lpush(docora.queue.key, "at the head")
        docora.redis.rpush(docora.queue.key, "late", "later", "latest")

    result = docora.actions().repair(prepare=meanwhile)
    assert {item.drift.job_id: item.outcome for item in result.repaired} == {
        first.job_id: RepairOutcome.REMOVED,
        second.job_id: RepairOutcome.REMOVED,
        orphan.job_id: RepairOutcome.REMOVED,
        taken.job_id: RepairOutcome.LEFT_ALONE,
        changed.job_id: RepairOutcome.LEFT_ALONE,
    }
    kept = ["at the head", "other", first.job_id, second.job_id, taken.job_id]
    assert docora.waiting() == [*kept, changed.job_id, "late", "later", "latest"]


def test_a_long_list_is_read_in_pages_from_its_tail(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_PAGE", 3)
    ids = [f"app_{number}-repo_{number}" for number in range(8)]
    docora.redis.rpush(docora.queue.key, *ids, ids[2])
    docora.redis.zadd("rq:failed:snapshot-queue", dict.fromkeys(ids, 2**33))
    entries = QueueSweep(docora.redis).read()
    assert entries.by_place[Place.LIST] == {
        job_id: [job_id] * (2 if number == 2 else 1) for number, job_id in enumerate(ids)
    }
    assert entries.by_place[Place.FAILED] == {job_id: [job_id] for job_id in ids}
