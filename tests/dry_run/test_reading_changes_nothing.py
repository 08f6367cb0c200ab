"""What only reads, dry runs among it, leaves both servers byte for byte as they were."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from rq.job import Job, JobStatus

from tests.support.docora import Docora
from tests.support.rows import TestLink

OPERATION = "bulk_0123456789abcdef"


def quiet(docora: Docora, link: TestLink) -> None:
    """Nobody has ever used this Redis."""
    docora.redis.flushdb()


def troubled(docora: Docora, link: TestLink) -> None:
    """Whatever a change would see to."""
    docora.redis.hset(f"docora:bulk:{OPERATION}", mapping={"total": 2, "completed": 1})
    docora.leave_job(link.job_id, JobStatus.FAILED)
    doubtful, expired, waiting, doubled = (docora.add_link() for _ in range(4))
    docora.leave_job(doubtful.job_id, JobStatus.QUEUED)
    docora.start_job(expired.job_id, heartbeat=-30)
    docora.enqueue(waiting.job_id)
    docora.redis.expire(Job.key_for(waiting.job_id), 3600)
    docora.enqueue(doubled.job_id)
    docora.redis.rpush(docora.queue.key, doubled.job_id)
    for status in ("pending_snapshot", "scanning", "synced"):
        docora.add_link(status, scanned=timedelta(days=1))
    gone = docora.add_link("pending_snapshot")
    docora.queue_job(gone)
    docora.delete_link(gone)
    docora.age_links()


@pytest.mark.parametrize("arrange", [quiet, troubled])
def test_what_only_reads_changes_nothing(
    docora: Docora, arrange: Callable[[Docora, TestLink], None]
) -> None:
    link = docora.add_link()
    docora.add_deliveries(link, 3)
    arrange(docora, link)
    before = docora.dump()
    ids = (link.app_id, link.repository_id)
    commands: list[tuple[str, ...]] = [
        ("failed",),
        ("failed", "--group-by", "error"),
        ("show", *ids),
        ("queue",),
        ("doctor",),
        ("operations",),
        ("history",),
        ("progress", OPERATION),
        ("retry", *ids, "--dry-run"),
        ("retry-all-failed", "--dry-run"),
        ("resync", *ids, "--dry-run"),
        ("resync", link.app_id, "--all", "--dry-run"),
        ("schedule", "--dry-run"),
        ("repair", "--dry-run"),
        ("repair", *ids, "--dry-run"),
    ]
    for command in commands:
        result = docora.run(*command, env={"DOCORA_OPS_DRIFT_GRACE": "0"})
        assert result.code in {0, 3, 6}, result
        assert docora.dump() == before, command
