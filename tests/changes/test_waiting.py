"""`--wait` and `operations --follow`: what they wait for, and how they end."""

import signal

import pytest

from docora_ops.actions.changes import new_operation
from docora_ops.links import Outcome, State
from docora_ops.queue import operations as record
from tests.support.docora import Docora, Process, finish
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.running_commands import await_line

RETRY_ALL = ("retry-all-failed", "--yes", "--json")
ERROR = "HTTP 502 on created README.md"


def await_jobs(docora: Docora, *links: TestLink) -> None:
    jobs = {link.job_id for link in links}
    eventually(lambda: jobs <= set(docora.waiting()), "the jobs of the links")
    eventually(lambda: docora.statuses() == {"pending_snapshot": len(links)}, "the commit")


def end_job(docora: Docora, link: TestLink, status: str, error: str | None = None) -> None:
    """Does what a worker does with the link's job."""
    docora.redis.lrem(docora.queue.key, 0, link.job_id)
    docora.job(link).delete()
    docora.set_link(link, status=status, last_error=error)


def retry_waiting(docora: Docora, link: TestLink, *options: str) -> Process:
    process = docora.start("retry", *link.ids, "--wait", "--json", *options)
    await_jobs(docora, link)
    return process


def test_it_ends_once_all_links_are_in_sync(docora: Docora) -> None:
    links = [docora.add_link(), docora.add_link()]
    process = docora.start(*RETRY_ALL, "--wait")
    await_jobs(docora, *links)
    end_job(docora, links[0], "synced")
    end_job(docora, links[1], "synced")
    waited = finish(process).ended(0).data["wait"]
    assert (waited["total"], waited["synced"], waited["failures"]) == (2, 2, [])


def test_exit_code_7_and_the_links_whose_snapshots_failed_again(docora: Docora) -> None:
    good, bad = docora.add_link(), docora.add_link()
    process = docora.start(*RETRY_ALL, "--wait")
    await_jobs(docora, good, bad)
    end_job(docora, good, "synced")
    end_job(docora, bad, "failed", ERROR)
    waited = finish(process).ended(7).data["wait"]
    assert (waited["synced"], waited["failed"]) == (1, 1)
    app_name = docora.one("SELECT app_name FROM apps WHERE app_id = %s", bad.app_id)
    [failure] = waited["failures"]
    assert failure["job_id"] == bad.job_id
    assert (failure["app_name"], failure["error_message"]) == (app_name, ERROR)
    assert failure["repository_name"].startswith("octo/")


def test_a_try_that_fails_is_no_result_while_the_job_has_further_tries(docora: Docora) -> None:
    link = docora.add_link()
    process = retry_waiting(docora, link, "--timeout", "2")
    docora.set_link(link, retry_count=1, last_error=ERROR)
    assert finish(process).ended(8).data["wait"]["failed"] == 0


def test_a_link_that_loses_its_job_is_lost(docora: Docora) -> None:
    link = docora.add_link()
    process = retry_waiting(docora, link)
    end_job(docora, link, "pending_snapshot")
    waited = finish(process).ended(7).data["wait"]
    assert waited["lost"] == 1
    assert "docora-ops repair" in waited["failures"][0]["error_message"]


def test_a_link_that_is_deleted_meanwhile_is_not_awaited(docora: Docora) -> None:
    link = docora.add_link()
    process = retry_waiting(docora, link)
    docora.connection.execute("DELETE FROM app_repositories")
    assert finish(process).ended(0).data["wait"]["gone"] == 1


@pytest.mark.parametrize(
    ("is_suspended", "says"), [(False, "No worker is running"), (True, "workers are suspended")]
)
def test_exit_code_8_after_the_timeout_and_why_nothing_goes_on(
    docora: Docora, is_suspended: bool, says: str
) -> None:
    link = docora.add_link()
    if is_suspended:
        docora.redis.set("rq:suspended", 1)
    process = retry_waiting(docora, link, "--timeout", "3")
    waited = finish(process).ended(8, says=says).data["wait"]
    assert waited["timed_out"]
    assert docora.waiting() == [link.job_id]


def test_an_interrupted_wait_leaves_the_jobs_alone(docora: Docora) -> None:
    link = docora.add_link()
    process = docora.start("retry", *link.ids, "--wait")
    await_line(process, "No worker is running")
    finish(process, signal.SIGINT).ended(130)
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)


def test_follow_goes_on_after_the_first_process_was_killed(docora: Docora) -> None:
    good, bad = docora.add_link(), docora.add_link()
    process = docora.start("retry-all-failed", "--yes", "--wait")
    await_line(process, "No worker is running")
    process.kill()
    process.wait()
    [operation] = docora.run("operations", "--json").ended(0).data
    follow = docora.start("operations", operation["operation_id"], "--follow", "--json")
    end_job(docora, good, "synced")
    end_job(docora, bad, "failed", ERROR)
    document = finish(follow).ended(7).data
    assert document["operation_id"] == operation["operation_id"]
    assert (document["wait"]["synced"], document["wait"]["failed"]) == (1, 1)


def test_follow_waits_for_the_links_that_a_running_operation_has_yet_to_queue(
    docora: Docora,
) -> None:
    with docora.actions() as actions:
        links = [docora.add_link("synced"), docora.add_link("failed")]
        ids = [str(docora.row(link)["id"]) for link in links]
        operation = new_operation(actions, "retry", "all", total=2)
        record.save(docora.redis, operation)  # its first batch has not ended
        id_ = operation.operation_id
        docora.run("operations", id_, "--follow", "--timeout", "1", "--json").ended(8)
        first, second = (Outcome(id_, None, State.QUEUED) for id_ in ids)
        record.save(docora.redis, operation.after([first]), ids[:1])
        late = docora.run("operations", id_, "--follow", "--timeout", "1", "--json").ended(8)
        assert (late.data["wait"]["total"], late.data["wait"]["synced"]) == (2, 1)
        follow = docora.start("operations", id_, "--follow", "--json")
        record.save(docora.redis, operation.after([first, second]), ids[1:])
        wait = finish(follow).ended(7).data["wait"]
    assert (wait["total"], wait["synced"], wait["failed"]) == (2, 1, 1)


def test_follow_of_a_single_retry_ends_with_8_after_its_timeout(docora: Docora) -> None:
    link = docora.add_link()
    id_ = docora.run("retry", *link.ids, "--json").ended(0).data["operation_id"]
    docora.run("operations", id_, "--follow", "--timeout", "1", "--json").ended(8)
