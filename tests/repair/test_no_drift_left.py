"""A repair removes what it has found, and only if it stands there still."""

from rq.job import JobStatus
from rq.registry import FailedJobRegistry
from rq.utils import now

from docora_ops.drift import RepairOutcome
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
