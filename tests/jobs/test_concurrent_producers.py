"""Many commands, and other producers, at the same links at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis
from rq import Queue
from rq.exceptions import DuplicateJobError

from tests.support.bulk_actions import RESYNC, RETRY, SCHEDULE, BulkAction
from tests.support.docora import QUEUE, Docora, Result, finish
from tests.support.fork_server import ForkedProcess
from tests.support.proxy import PUSH, Fault, Proxy
from tests.support.rows import TestLink
from tests.support.running_commands import PATIENT, starting_line

PROCESSES = 20


def retried_once(docora: Docora, link: TestLink, results: list[Result]) -> None:
    """The link has one job and was reset; each retry says so or refuses."""
    assert docora.waiting().count(link.job_id) == 1
    assert docora.was_reset(link)
    for result in results:
        assert result.code in {0, 4}, result
        assert "Traceback" not in result.stderr
        if result.code == 0:
            assert result.data["outcome"] in {"queued", "already_queued"}
        else:
            assert result.json["code"] == "not_failed"
            assert result.json["status"] == "pending_snapshot"
            assert result.json["job"] == "waiting"


def start_retries(docora: Docora, link: TestLink) -> list[ForkedProcess]:
    command = ("retry", *link.ids, "--json")
    return [docora.start(*command, env=PATIENT) for _ in range(PROCESSES)]


def test_twenty_processes_that_retry_one_link_at_once_leave_one_job(docora: Docora) -> None:
    link = docora.add_link()
    with starting_line(docora, PROCESSES, "SELECT 1 FROM app_repositories FOR UPDATE"):
        processes = start_retries(docora, link)
    results = [finish(process) for process in processes]
    retried_once(docora, link, results)
    outcomes = [result.data["outcome"] for result in results if result.code == 0]
    assert outcomes == ["queued"], "the first found the link failed, the others found it pending"
    assert docora.waiting() == [link.job_id]
    assert docora.registries(link.job_id) == set()


def test_retries_of_a_link_that_is_being_bulk_retried_leave_one_job(docora: Docora) -> None:
    docora.add_links(300)
    link = TestLink("app_" + f"{1:024x}", "repo_" + f"{150:024x}")
    # The bulk operation's two batches in flight wait as well.
    with starting_line(docora, PROCESSES + 1):
        bulk = docora.start("retry-all-failed", "--batch-size", "50", "--json", env=PATIENT)
        singles = start_retries(docora, link)
    results = [finish(process) for process in singles]
    bulk_result = finish(bulk)
    retried_once(docora, link, results)
    assert bulk_result.code == 0, bulk_result
    data = bulk_result.data
    assert data["total"] == data["completed"] == 300
    by_singles = sum(result.code == 0 and result.data["outcome"] == "queued" for result in results)
    assert data["queued"] + by_singles == 300, "each link was queued by exactly one of them"
    assert data["skipped"] == by_singles
    assert len(docora.waiting()) == 300
    assert docora.statuses() == {"pending_snapshot": 300}
    docora.assert_sound()


@pytest.mark.parametrize(
    "together",
    [
        pytest.param(
            [
                replace(RETRY, command=("retry-all-failed", "--batch-size", size))
                for size in ("500", "100", "70", "30")
            ],
            id="four retries",
        ),
        pytest.param([RETRY, RESYNC], id="retry and resync"),
        pytest.param([RETRY, SCHEDULE], id="retry and schedule"),
        pytest.param([RESYNC, SCHEDULE], id="resync and schedule"),
        pytest.param([SCHEDULE] * 3, id="three schedules"),
    ],
)
def test_bulk_actions_at_once_leave_one_job_for_each_link(
    docora: Docora, together: list[BulkAction]
) -> None:
    total = 1200
    together[0].add_links(docora, total)
    tables = docora.dump()[0]
    docora.connection.execute(
        "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
        " SELECT app_id, repository_id, 'file', 'sha' FROM app_repositories"
    )
    with starting_line(docora, len(together)):
        processes = [docora.start(*bulk.command, "--json", env=PATIENT) for bulk in together]
    results = [finish(process) for process in processes]
    for result in results:
        assert result.code == 0, result
        assert result.data["total"] == result.data["completed"] == total
        assert result.data["put_to_work"] + result.data["skipped"] == total
        if operation_id := result.data["operation_id"]:
            assert docora.redis.hget(f"docora:bulk:{operation_id}", "completed") == b"1200"
    assert sum(result.data["queued"] for result in results) == total
    assert sorted(docora.waiting()) == [link.job_id for link in docora.links()]
    docora.assert_sound()
    if set(together) == {SCHEDULE}:
        assert docora.dump()[0]["app_repositories"] == tables["app_repositories"]
    else:
        assert docora.statuses() == {"pending_snapshot": total}
    row = docora.connection.execute("SELECT count(*) AS left FROM app_delivered_files").fetchone()
    assert row == {"left": 0 if RESYNC in together else total}


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
