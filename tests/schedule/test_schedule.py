"""`docora-ops schedule`."""

from datetime import timedelta

from rq.job import JobStatus

from tests.support.bulk_actions import bulk_document
from tests.support.docora import INTERMEDIATE, Docora

AT_ONCE = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def test_one_pass_queues_what_is_due_and_prints_one_document(docora: Docora) -> None:
    docora.add_worker()
    pending, stale, waiting, running = (docora.add_link("pending_snapshot") for _ in range(4))
    docora.leave_job(stale.job_id, JobStatus.FAILED)
    docora.enqueue(waiting.job_id)
    docora.start_job(running.job_id)
    docora.add_link("synced", scanned=timedelta(minutes=4))
    before = docora.dump()[0]
    result = docora.run("schedule", "--json")
    assert result.code == 0, result
    assert result.json == bulk_document(
        "Schedule pass done", queued=1, replaced_stale=1, already_queued=1, already_running=1
    )
    assert docora.waiting() == [waiting.job_id, pending.job_id, stale.job_id]
    assert docora.dump()[0] == before
    assert docora.redis.keys("docora:*") == []
    assert "4 links due." in result.stderr


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
