"""A database and a queue that do not belong together: nothing is removed or queued."""

import re

import pytest
from rq.job import JobStatus
from rq.utils import now

from docora_ops.actions.drift import Suspects
from docora_ops.actions.pair import Belonging, count_jobs_with_links
from docora_ops.actions.repairs import RepairResult, repair
from tests.support.diagnoses import OF_DRIFT, ONE_LOOK, check, examine
from tests.support.docora import QUEUE, Docora
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
        assert (found["state"], "12 of 12 jobs" in found["finding"]) == ("critical", True), found
        assert "REDIS_URL" in found["hint"]
        assert {check(diagnosis, name)["hint"] for name in OF_DRIFT} == {None}
        for arguments in (["--dry-run"], [*lost.ids]):
            refused = docora.run("repair", *arguments, "--yes", "--json", env=ONE_LOOK)
            assert (refused.code, refused.json["code"]) == (4, "servers_mismatched"), refused
            assert (refused.json["job_count"], refused.json["jobs_without_link"]) == (12, 12)
            assert re.match(r"docora_\d+ on .* and Redis at [\w.]+:\d+", refused.json["error"])
            assert "--remove-unknown-jobs" in refused.json["hint"]
    told = docora.run("repair", "--remove-unknown-jobs", "--json", env=ONE_LOOK)
    counts = told.data["counts"]
    assert (told.code, counts["removed"], counts["queued"]) == (0, 12, 1), told
    assert docora.waiting() == [lost.job_id]
    entry, *_ = docora.run("history", "--json").data
    assert entry["selection"] == {"remove_unknown_jobs": True}


def test_a_suspect_that_was_normal_activity_is_no_reason_to_refuse(mismatched: Docora) -> None:
    lost = mismatched.link(mismatched.add_app(), mismatched.add_repository(), "pending_snapshot")
    mismatched.age_links()
    api = mismatched.actions(drift_grace=0).docora
    for event in repair(api, lost.app_id):
        if isinstance(event, Suspects) and event.count:
            mismatched.set_link(lost, status="synced")
    assert isinstance(event, RepairResult)
    assert event.drifts == []


@pytest.mark.parametrize("command", ["resync", "retry-all-failed", "schedule"])
def test_nothing_is_queued_among_the_jobs_of_another_docora(
    mismatched: Docora, command: str
) -> None:
    docora = mismatched
    app_id = docora.add_app()
    link = docora.link(app_id, docora.add_repository())
    docora.link(app_id, docora.add_repository(), "pending_snapshot")
    arguments = [command, *(link.ids if command == "resync" else ()), "--json"]
    with frozen(docora):
        docora.run(*arguments).ended(4, "servers_mismatched")
    # A job of this database may be anywhere.
    for each in (
        link,
        *(docora.link(app_id, docora.add_repository(), "synced") for _ in range(11)),
    ):
        docora.leave_job(each.job_id, JobStatus.FAILED)
    docora.run(*arguments).ended(0)


def test_each_job_that_was_made_for_a_link_counts_once_wherever_it_stands(docora: Docora) -> None:
    places = ("", "deferred", "failed", "scheduled", "finished")
    for place in places:
        link = docora.add_link()
        docora.queue_job(link)
        if place:
            docora.redis.lrem(docora.queue.key, 0, link.job_id)
            docora.redis.zadd(f"rq:{place}:{QUEUE}", {link.job_id: now().timestamp() + 3600})
        else:
            docora.redis.rpush(docora.queue.key, link.job_id)
        docora.delete_link(link)
    here, over, running = (docora.add_link() for _ in range(3))
    docora.enqueue(here.job_id)
    docora.leave_job(over.job_id, JobStatus.FINISHED)
    docora.start_job(running.job_id)
    docora.enqueue("a-job-of-somebody-else")
    actions = docora.actions()
    with frozen(docora):
        counted = count_jobs_with_links(actions.database, actions.queue)
    assert counted == Belonging(7, without_link=4)


@pytest.mark.parametrize(
    ("jobs", "without_link", "is_plausible"),
    [(0, 0, True), (1, 1, False), (9, 8, True), (10, 5, True), (10, 6, False)],
)
def test_no_link_at_all_or_fewer_than_half_of_ten_jobs_tell(
    jobs: int, without_link: int, is_plausible: bool
) -> None:
    assert Belonging(jobs, without_link).is_plausible is is_plausible
    # Docora keeps failed jobs of deleted links, and nothing is removed from its queue.
    beside_docora = Belonging(jobs, without_link, keeps_deleted=True)
    assert beside_docora.is_plausible is (not jobs or without_link < jobs)
