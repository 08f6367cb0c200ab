"""`docora-ops schedule`."""

import re
from datetime import timedelta
from typing import Any

from rq.job import JobStatus

from tests.support.bulk_actions import bulk_document
from tests.support.docora import INTERMEDIATE, Docora
from tests.support.rows import TestLink

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def add_a_link_of_each_kind(docora: Docora) -> dict[str, TestLink]:
    docora.add_worker()
    app_id = docora.add_app("Acme Search")

    def add(status: str, open_for: timedelta | None = None, **options: Any) -> TestLink:
        repository_id = docora.add_repository("octo/api", circuit_open_for=open_for)
        return docora.link(app_id, repository_id, status, **options)

    soon, ago = timedelta(minutes=20), timedelta(minutes=6)
    links = {
        "pending": add("pending_snapshot"),
        "synced": add("synced", scanned=ago),
        "failed": add("failed"),
        "stale": add("pending_snapshot"),
        "waiting": add("pending_snapshot"),
        "running": add("pending_snapshot"),
        "scanned just now": add("synced", scanned=timedelta(minutes=4)),
        "scanning": add("scanning"),
        "pending, circuit open": add("pending_snapshot", soon),
        "synced, circuit open": add("synced", soon, scanned=ago),
        "failed, circuit open": add("failed", soon),
        "failed, circuit was open": add("failed", -soon),
    }
    docora.leave_job(links["stale"].job_id, JobStatus.FAILED)
    docora.enqueue(links["waiting"].job_id)
    docora.start_job(links["running"].job_id)
    return links


def test_one_pass_queues_what_is_due_and_prints_one_document(docora: Docora) -> None:
    links = add_a_link_of_each_kind(docora)
    before = docora.dump()[0]
    result = docora.run("schedule", "--json")
    assert result.code == 0, result
    assert result.json == bulk_document(
        "Schedule pass done", queued=3, replaced_stale=1, already_queued=1, already_running=1
    )
    waiting = {"waiting": None, "pending": False, "synced": True, "failed": True, "stale": False}
    assert docora.waiting() == [links[kind].job_id for kind in waiting]
    for kind, is_rescan in waiting.items():
        if is_rescan is not None:
            assert docora.job(links[kind]).kwargs["is_rescan"] is is_rescan, kind
    assert docora.dump()[0] == before
    assert docora.redis.keys("docora:*") == []
    servers = r"\S+ on \S+ \(schema public\), Redis \S+/\d+"
    assert re.fullmatch(rf"{servers}: 6 links of Acme Search due\.\n", result.stderr)


def test_a_job_that_no_worker_would_take_is_replaced_in_the_same_pass(docora: Docora) -> None:
    """RQ writes `scheduled` before it puts a job into its schedule."""
    queued, scheduled, waiting, delayed, taken = (
        docora.add_link("pending_snapshot") for _ in range(5)
    )
    for link in (queued, scheduled, waiting, taken):
        docora.enqueue(link.job_id)
    docora.schedule_job(delayed.job_id)
    for link in (queued, scheduled, taken):
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
    docora.job(scheduled).set_status(JobStatus.SCHEDULED)
    docora.redis.rpush(INTERMEDIATE, taken.job_id)
    before = docora.dump()
    planned = docora.run("schedule", "--dry-run", "--json", env=AT_ONCE)
    assert docora.dump() == before
    # A bulk command believes what the jobs say.
    assert docora.run("retry-all-failed", "--json").data["total"] == 0
    result = docora.run("schedule", "--json", env=AT_ONCE)
    for each in (planned, result):
        counts = (each.data["replaced_stale"], each.data["already_queued"])
        assert (each.code, counts) == (0, (2, 3)), each
    assert docora.waiting() == [waiting.job_id, queued.job_id, scheduled.job_id]
    again = docora.run("schedule", "--json", env=AT_ONCE)
    assert (again.code, again.data["already_queued"]) == (0, 5)


def test_the_summary_counts_by_app(docora: Docora) -> None:
    docora.add_links(5, apps=2, status="synced")
    docora.leave_job(f"app_{1:024x}-repo_{1:024x}", JobStatus.FAILED)
    result = docora.run("schedule")
    assert result.code == 0, result
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["App", "App id", "queued", "replaced stale", "total"],
        ["all", "", "4", "1", "5"],
        ["App 1", f"app_{1:024x}", "2", "1", "3"],
        ["App 2", f"app_{2:024x}", "2", "0", "2"],
    ]
    assert "no worker listens" in result.stderr
    assert "bulk_" not in result.stderr


def test_nothing_due_is_no_error(docora: Docora) -> None:
    docora.add_link("scanning")
    docora.add_link("synced", scanned=timedelta(minutes=1))
    before = docora.dump()
    for_script, for_person, dry = docora.run_together(
        ("schedule", "--json"), ("schedule",), ("schedule", "--dry-run", "--json")
    )
    assert for_script.code == 0, for_script
    assert for_script.json == bulk_document("Nothing is due")
    assert (for_person.code, for_person.stdout) == (0, "Nothing is due\n")
    assert (dry.code, dry.data["total"], dry.data["planned_links"]) == (0, 0, [])
    assert docora.dump() == before
