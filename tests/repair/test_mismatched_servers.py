"""A database and a queue that do not belong together: nothing is removed or queued."""

import pytest
from rq.job import JobStatus

from docora_ops.actions.drift import Suspects
from docora_ops.actions.repairs import RepairResult, repair
from tests.support.diagnoses import OF_DRIFT, ONE_LOOK, check, examine
from tests.support.docora import Docora
from tests.support.read_only import frozen


@pytest.fixture
def mismatched(docora: Docora) -> Docora:
    """A database without links, beside the jobs of another one."""
    for _ in range(12):
        docora.add_link()
    docora.actions().retry_all()
    docora.connection.execute("DELETE FROM app_repositories")
    docora.add_worker()
    return docora


def test_the_jobs_of_another_docora_are_neither_removed_nor_joined(mismatched: Docora) -> None:
    docora = mismatched
    lost = docora.link(docora.add_app(), docora.add_repository(), "pending_snapshot")
    docora.age_links()
    with frozen(docora):
        diagnosis = examine(docora).ended(6)
        found = check(diagnosis, "servers_match")
        assert (found["state"], "none of 12 jobs" in found["finding"]) == ("critical", True), found
        assert "REDIS_URL" in found["hint"]
        assert {check(diagnosis, name)["hint"] for name in OF_DRIFT} == {None}
        for arguments in (["--dry-run"], [*lost.ids]):
            docora.run("repair", *arguments, "--yes", env=ONE_LOOK).ended(4)


def test_a_suspect_that_was_normal_activity_is_no_reason_to_refuse(mismatched: Docora) -> None:
    lost = mismatched.link(mismatched.add_app(), mismatched.add_repository(), "pending_snapshot")
    mismatched.age_links()
    api = mismatched.actions(drift_grace=0).docora
    for event in repair(api, lost.app_id):
        if isinstance(event, Suspects) and event.count:
            mismatched.set_link(lost, status="synced")
    assert isinstance(event, RepairResult)
    assert event.drifts == []


@pytest.mark.parametrize("command", ["retry", "resync", "retry-all-failed", "schedule"])
def test_nothing_is_queued_among_the_jobs_of_another_docora(
    mismatched: Docora, command: str
) -> None:
    docora = mismatched
    app_id = docora.add_app()
    link = docora.link(app_id, docora.add_repository())
    docora.link(app_id, docora.add_repository(), "pending_snapshot")
    arguments = [command, *(link.ids if command in {"retry", "resync"} else ()), "--json"]
    with frozen(docora):
        refused = docora.run(*arguments).ended(4, "servers_mismatched").json
    assert "this Redis seems to belong to another database: none of 12 jobs" in refused["error"]
    assert docora.connection.info.dbname in refused["error"]
    assert f", Redis {docora.redis_url.rpartition('@')[2]}" in refused["error"]
    assert "check DATABASE_URL and REDIS_URL" in refused["hint"]
    # One job of this database is enough, wherever it is.
    known = docora.link(app_id, docora.add_repository(), "synced")
    docora.leave_job(known.job_id, JobStatus.FAILED)
    docora.run(*arguments).ended(0)


def test_an_empty_queue_and_jobs_of_others_tell_nothing(docora: Docora) -> None:
    first, second = docora.add_link(), docora.add_link()
    docora.run("retry", *first.ids).ended(0)
    docora.redis.delete(docora.queue.key)
    docora.enqueue("a-job-of-somebody-else")
    docora.run("retry", *second.ids).ended(0)
