"""Many commands, and other producers, at the same links at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis
from rq import Queue
from rq.exceptions import DuplicateJobError

from tests.support.bulk_actions import RESYNC, RETRY, SCHEDULE, BulkAction
from tests.support.docora import QUEUE, Docora, finish
from tests.support.proxy import PUSH, Fault, Proxy
from tests.support.running_commands import PATIENT, starting_line

PROCESSES = 20
TOTAL = 600
AT_ONCE = {**PATIENT, "DOCORA_OPS_DRIFT_GRACE": "0"}


def test_twenty_processes_that_retry_one_link_at_once_leave_one_job(docora: Docora) -> None:
    link = docora.add_link()
    with starting_line(docora, PROCESSES, "SELECT 1 FROM app_repositories FOR UPDATE"):
        command = ("retry", *link.ids, "--json")
        processes = [docora.start(*command, env=PATIENT) for _ in range(PROCESSES)]
    results = [finish(process) for process in processes]
    outcomes = [result.data["outcome"] for result in results if result.code == 0]
    assert outcomes == ["queued"], "the first found the link failed, the others found it pending"
    for result in results:
        if result.code:
            refusal = [result.json[name] for name in ("code", "status", "job")]
            assert (result.code, refusal) == (4, ["not_failed", "pending_snapshot", "waiting"])
    assert docora.waiting() == [link.job_id]
    assert docora.registries(link.job_id) == set()
    assert docora.was_reset(link)


@pytest.mark.parametrize(
    "together",
    [
        [
            replace(RETRY, command=("retry-all-failed", "--batch-size", size))
            for size in ("500", "100", "70", "30")
        ],
        [RETRY, RESYNC],
        [RESYNC, SCHEDULE],
    ],
    ids=["four retries", "retry and resync", "resync and schedule"],
)
def test_bulk_actions_at_once_leave_one_job_for_each_link(
    docora: Docora, together: list[BulkAction]
) -> None:
    together[0].add_links(docora, TOTAL)
    with starting_line(docora, len(together)):
        processes = [docora.start(*bulk.command, "--json", env=AT_ONCE) for bulk in together]
    results = [finish(process) for process in processes]
    for result in results:
        assert result.code == 0, result
        assert result.data["total"] == result.data["completed"] == TOTAL
        assert result.data["put_to_work"] + result.data["skipped"] == TOTAL
    assert sum(result.data["queued"] for result in results) == TOTAL
    assert sorted(docora.waiting()) == [link.job_id for link in docora.links()]
    docora.assert_sound()
    assert docora.statuses() == {"pending_snapshot": TOTAL}


def enqueue_unique(docora: Docora, job_ids: list[str]) -> list[str]:
    """Pushes ids with RQ's own unique enqueue. Returns those that it refused."""
    refused = []
    with redis.Redis.from_url(docora.redis_access.owner) as client:
        queue = Queue(QUEUE, connection=client)
        for job_id in job_ids:
            try:
                queue.enqueue("other.producer", job_id=job_id, description="", unique=True)
            except DuplicateJobError:
                refused.append(job_id)
    return refused


def test_a_bulk_retry_beside_another_producer_leaves_one_job_each(docora: Docora) -> None:
    docora.add_links(1000)
    app_id = "app_" + f"{1:024x}"
    job_ids = [f"{app_id}-repo_{number:024x}" for number in range(1, 1001)]
    next_batch = job_ids[190:200]
    # First what the bulk operation is about to push; then both run towards each other.
    others = next_batch + job_ids[:199:-1] + job_ids[:190]
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=20)
        bulk = docora.start(*RETRY.command, "--json", env={**PATIENT, "REDIS_URL": proxy.url})
        push.wait()
        assert docora.waiting() == job_ids[:190]
        refused = enqueue_unique(docora, others[:300])
        with ThreadPoolExecutor(1) as thread:
            rest = thread.submit(enqueue_unique, docora, others[300:])
            push.release()
            result = finish(bulk)
        refused += rest.result()
    assert result.code == 0, result
    data = result.data
    assert data["completed"] == data["put_to_work"] == 1000
    assert data["queued"] >= 190
    assert data["already_queued"] >= 300
    assert data["already_queued"] + len(refused) == 1000
    assert len(refused) >= 190
    assert sorted(docora.waiting()) == job_ids
    assert docora.statuses() == {"pending_snapshot": 1000}
    docora.assert_sound()
