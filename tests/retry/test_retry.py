"""`docora-ops retry`."""

import pytest
import redis
from rq.job import Job, JobStatus

from tests.retry.failed_link import APP, ERROR, REPOSITORY, fail_again
from tests.support.bullmq import WORKER_NAME
from tests.support.docora import Docora
from tests.support.job_states import (
    Arrange,
    all_of,
    expires,
    left,
    started,
)
from tests.support.rows import TestLink

NO_WORKER = "no worker listens on the queue snapshot-queue"


@pytest.mark.parametrize(
    ("outcome", "label", "arrange"),
    [
        ("queued", "queued", all_of()),
        ("replaced_stale", "replaced stale", left(JobStatus.FAILED)),
        ("already_queued", "already queued", Docora.enqueue),
        ("already_running", "already running", started),
    ],
)
def test_each_outcome_succeeds_and_has_its_table_and_its_json(
    docora: Docora, link: TestLink, outcome: str, label: str, arrange: Arrange
) -> None:
    before = docora.row(link)
    arrange(docora, link.job_id)
    result = docora.run("retry", APP, REPOSITORY, "--json")
    is_running = outcome == "already_running"
    if is_running:
        assert (docora.row(link), docora.waiting()) == (before, [])
    else:
        assert docora.was_reset(link)
        assert docora.waiting() == [link.job_id]
        assert docora.registries(link.job_id) == set()
        assert docora.job(link).get_status() is JobStatus.QUEUED
        assert docora.redis.ttl(f"rq:job:{link.job_id}") == -1
        fail_again(docora, link)
        docora.redis.flushdb()
        arrange(docora, link.job_id)
    table = docora.run("retry", APP, REPOSITORY)
    assert (result.code, table.code) == (0, 0), (result, table)
    none = ("circuit_open_until", "circuit_reset", "deliveries_cleared", "deliveries_marked")
    assert result.json == {
        "data": {
            "message": "Snapshot already running" if is_running else "Retry queued",
            "job_id": f"{APP}-{REPOSITORY}",
            "outcome": outcome,
            "app_id": APP,
            "app_name": "Acme Search",
            "repository_id": REPOSITORY,
            "repository_name": "octo/api",
            "previous": {"status": "failed", "retry_count": 5, "error_message": ERROR},
            "worker_count": 0,
            "dry_run": False,
            **dict.fromkeys((*none, "waited")),
        }
    }
    assert dict(line.split("\t") for line in table.stdout.splitlines()) == {
        "App": f"Acme Search ({APP})",
        "Repository": f"octo/api ({REPOSITORY})",
        "Was": "failed, 5 tries failed",
        "Last error": ERROR,
        "Outcome": label,
        "Job": f"{APP}-{REPOSITORY}",
    }


def test_any_status_but_failed_is_refused_and_the_hint_names_what_helps(docora: Docora) -> None:
    docora.redis.sadd("rq:queues", docora.queue.key)
    app = docora.add_app("Acme Search")
    expected: dict[TestLink, tuple[str, str, str]] = {}

    def add(status: str, job: str, helps: str) -> TestLink:
        link = docora.link(app, docora.add_repository(), status, retry_count=1)
        expected[link] = (status, job, helps)
        return link

    docora.enqueue(add("pending_snapshot", "waiting", "nothing needs to be done").job_id)
    docora.leave_job(add("scanning", "stale", "repair").job_id, JobStatus.FAILED)
    docora.start_job(add("scanning", "running", "wait for it to end").job_id)
    add("pending_snapshot", "none", "repair")
    add("synced", "none", "resync")
    before = docora.dump()
    options = ("--front", "--reset-circuit", "--json")
    results = docora.run_together(
        *(("retry", app, link.repository_id, *options) for link in expected)
    )
    last = list(expected)[-1]
    person, dry = docora.run_together(
        ("retry", app, last.repository_id),
        ("retry", app, last.repository_id, "--dry-run", "--json"),
    )
    assert docora.dump() == before
    for (status, job, helps), result in zip(expected.values(), results, strict=True):
        assert result.code == 4, result
        assert result.json.keys() == {"error", "code", "hint", "status", "job"}
        assert result.json["error"].startswith("Only failed links can be retried")
        found = (result.json["code"], result.json["status"], result.json["job"])
        assert found == ("not_failed", status, job)
        assert helps in result.json["hint"]
    document = results[-1].json
    assert person.stderr.endswith(f"Error: {document['error']}\nHint: {document['hint']}\n")
    assert (dry.code, dry.json) == (4, document)
    # The advice is good: what it names queues the link.
    for (link, (_, _, helps)), result in zip(expected.items(), results, strict=True):
        if helps in {"repair", "resync"}:
            _, _, advised = result.json["hint"].partition("docora-ops ")
            followed = docora.run(*advised.split(), "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"})
            assert followed.code == 0, followed
            assert docora.waiting().count(link.job_id) == 1


def test_a_missing_worker_is_warned_about_every_time_until_one_listens(
    docora: Docora, link: TestLink
) -> None:
    docora.redis.sadd("rq:workers:snapshot-queue", "rq:worker:died-long-ago")
    dry = docora.run("retry", APP, REPOSITORY, "--dry-run")
    first = docora.run("retry", APP, REPOSITORY, "--json")
    refused = docora.run("retry", APP, REPOSITORY)
    assert (first.data["worker_count"], refused.code) == (0, 4)
    for result in (dry, first, refused):
        assert NO_WORKER in result.stderr, result
    docora.add_worker("one")
    docora.add_worker("two")
    fail_again(docora, link)
    result = docora.run("retry", APP, REPOSITORY, "--json")
    assert (result.data["worker_count"], result.stderr) == (2, "")


def test_jobs_in_the_bullmq_queue_are_warned_about_and_a_bullmq_worker_otherwise(
    docora: Docora, link: TestLink
) -> None:
    docora.add_worker()
    command = ("retry", APP, REPOSITORY, "--dry-run")
    docora.redis.set("bull:snapshot-queue:id", 7)
    docora.redis.rpush("bull:other-queue:wait", link.job_id)
    assert "BullMQ" not in docora.run(*command).stderr
    docora.redis.zadd("bull:snapshot-queue:delayed", {link.job_id: 1})
    docora.redis.set("bull:snapshot-queue:stalled-check", "1", px=30_000)  # killed a moment ago
    jobs = docora.run(*command).stderr
    assert "no BullMQ worker runs" in jobs
    assert "docora-ops schedule" in jobs
    with redis.Redis.from_url(docora.redis_access.owner, client_name=WORKER_NAME) as worker:
        worker.ping()
        real = docora.run("retry", APP, REPOSITORY, "--json")
    assert "a BullMQ worker of Docora runs" in real.stderr
    assert "no BullMQ worker runs" not in real.stderr
    assert (real.code, real.data["outcome"]) == (0, "queued")


def test_a_link_that_cannot_be_queued_is_left_as_it_was(docora: Docora, link: TestLink) -> None:
    dotted = docora.link(docora.add_app("Dotted", "app.dotted"), docora.add_repository())
    docora.add_deliveries(dotted, 2)
    docora.add_deliveries(link, 2)
    docora.redis.set(f"rq:job:{link.job_id}", "not a hash")
    docora.redis.sadd("rq:queues", docora.queue.key)
    before = docora.dump()
    invalid, unreadable = docora.run_together(
        ("resync", *dotted.ids, "--json"), ("resync", APP, REPOSITORY, "--json")
    )
    assert docora.dump() == before
    assert (invalid.code, invalid.json["code"]) == (6, "invalid_job_id")
    assert "app.dotted" in invalid.json["error"]
    assert (unreadable.code, unreadable.json["code"]) == (6, "job_unreadable")
    assert link.job_id in unreadable.json["error"]


@pytest.mark.parametrize(
    ("queue", "arrange", "outcome", "after"),
    [
        pytest.param("a LINK b", expires, "already_queued", "a LINK b", id="waiting, expires"),
        pytest.param("a b", left(JobStatus.FAILED), "replaced_stale", "LINK a b", id="stale"),
    ],
)
def test_front_puts_a_new_job_at_the_head_and_says_that_it_moves_none(
    docora: Docora, queue: str, arrange: Arrange, outcome: str, after: str
) -> None:
    link = docora.add_link()
    for job_id in queue.replace("LINK", link.job_id).split():
        docora.enqueue(job_id)
    arrange(docora, link.job_id)
    result = docora.run("retry", *link.ids, "--front", "--json")
    assert (result.code, result.data["outcome"]) == (0, outcome), result
    assert ("keeps its place" in result.stderr) is (outcome == "already_queued")
    assert docora.waiting() == after.replace("LINK", link.job_id).split()
    assert docora.redis.ttl(Job.key_for(link.job_id)) == -1
