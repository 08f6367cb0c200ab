"""`wait`: a wait that is taken up again, for one link or for a bulk operation."""

from uuid import UUID

import pytest
from rq.suspension import suspend

from tests.support.docora import Docora, finish
from tests.support.other_worker import other_worker
from tests.support.proxy import eventually
from tests.support.running_commands import (
    PATIENT,
    age_operation,
    await_line,
    only_operation,
    starting_line,
    suspended,
)

QUICK = {"DOCORA_OPS_DRIFT_GRACE": "0"}


def links_of(docora: Docora, operation_id: str) -> set[str]:
    kept = docora.redis.get(f"docora-ops:operation:{operation_id}:links")
    assert isinstance(kept, bytes)
    assert len(kept) % 16 == 0
    return {str(UUID(bytes=kept[i : i + 16])) for i in range(0, len(kept), 16)}


def row_ids(docora: Docora, status: str) -> set[str]:
    rows = docora.connection.execute(
        "SELECT id::text FROM app_repositories WHERE status = %s", (status,)
    ).fetchall()
    return {row["id"] for row in rows}


def killed_operation(docora: Docora, *, in_flight: int) -> str:
    """The id of a bulk retry that was killed when so many links were in flight."""
    pace = ("--in-flight", str(in_flight))
    runner = docora.start("retry-all-failed", *pace, "--json")
    eventually(lambda: docora.statuses().get("pending_snapshot") == in_flight, "the links")
    runner.kill()
    finish(runner)
    return only_operation(docora)


def test_without_an_id_the_running_operation_is_waited_for_and_named(docora: Docora) -> None:
    docora.add_links(3)
    operation = killed_operation(docora, in_flight=2)
    result = docora.run("wait", "--timeout", "1s", "--json", env=QUICK)
    assert (result.code, result.data["operation_id"]) == (8, operation), result
    assert f"Waiting for the snapshots of operation {operation}, 1s at most." in result.stderr


# One link


@pytest.mark.parametrize(("status", "code"), [("synced", 0), ("failed", 7)])
def test_a_link_with_a_result_needs_no_wait(docora: Docora, status: str, code: int) -> None:
    error = "HTTP 500 on created README.md" if status == "failed" else None
    link = docora.add_link(status, last_error=error)
    before = docora.dump()
    result = docora.run("wait", *link.ids, "--json").ended(code)
    assert "no worker" not in result.stderr
    assert "A rescan" not in result.stderr
    assert docora.dump() == before
    waited = result.data["waited"]
    assert (waited["result"], waited["status"], waited["error_message"]) == (status, status, error)
    assert (result.data["app_id"], result.data["repository_id"]) == link.ids
    assert result.data["job_id"] == link.job_id


@pytest.mark.parametrize(
    ("status", "error"), [("pending_snapshot", "HTTP 503"), ("failed", None), ("synced", None)]
)
def test_a_link_with_a_live_job_is_waited_for_unless_it_is_in_sync(
    docora: Docora, status: str, error: str | None
) -> None:
    link = docora.add_link(status)
    docora.enqueue(link.job_id)
    process = docora.start("wait", *link.ids, "--json", env=QUICK)
    if status == "synced":
        result = finish(process).ended(0, says="no worker listens")
        see = f"To see its job: docora-ops show {' '.join(link.ids)}\n"
        assert f"A rescan of this link is waiting, and is not awaited. {see}" in result.stderr
        docora.start_job(link.job_id)
        running = docora.run("wait", *link.ids).ended(0)
        assert "A rescan of this link is running, and is not awaited. " in running.stderr
        return
    await_line(process, "Waiting for 1 snapshot")
    suspend(docora.redis)
    # Only a wait that has looked at the link, and goes on, looks at the workers.
    await_line(process, "workers are suspended")
    with other_worker(docora, lambda _: error):
        result = finish(process).ended(7 if error else 0)
    assert result.data["waited"]["result"] == ("failed" if error else "synced")
    assert result.data["waited"]["error_message"] == error


# An operation


def test_an_operation_is_waited_for_from_another_terminal(docora: Docora) -> None:
    docora.add_links(6)
    [unqueued, bad, *_] = sorted(link.job_id for link in docora.links())
    docora.redis.set(f"rq:job:{unqueued}", "not a job")
    operation_id = docora.run("retry-all-failed", "--json").data["operation_id"]
    assert links_of(docora, operation_id) == row_ids(docora, "pending_snapshot")
    process = docora.start("wait", operation_id, "--json")
    await_line(process, f"Waiting for the snapshots of operation {operation_id}")
    with other_worker(docora, lambda job_id: "HTTP 503" if job_id == bad else None):
        result = finish(process)
    shown = docora.run("wait", operation_id)
    assert result.code == shown.code == 7, (result, shown)
    data = result.data
    counts = ("operation_id", "total", "completed", "put_to_work", "not_queued", "cancelled")
    assert [data[name] for name in counts] == [operation_id, 6, 6, 5, 1, False]
    assert (data["waited"]["synced"], data["waited"]["failed"]) == (4, 1)
    assert [each["job_id"] for each in data["failures"]] == [unqueued]
    assert [each["job_id"] for each in data["waited"]["failed_links"]] == [bad]
    assert data["waited"]["failed_by_error"][0]["error_message"] == "HTTP 503"
    assert "1 failed again, 4 in sync" in shown.stdout


def test_a_wait_for_a_killed_operation_ends_with_what_it_had_claimed(docora: Docora) -> None:
    docora.add_links(10)
    operation_id = killed_operation(docora, in_flight=2)
    assert links_of(docora, operation_id) == row_ids(docora, "pending_snapshot")
    age_operation(docora, operation_id, 130)
    with other_worker(docora):
        result = docora.run("wait", operation_id, "--json").ended(6)
    assert result.data["waited"]["synced"] == 2
    assert "silent for two minutes" in result.stderr
    assert docora.run("operations", operation_id, "--json").data["last_step_seconds"] >= 130


def test_a_wait_is_no_step_of_an_operation_that_ended_before(docora: Docora) -> None:
    earlier, later = docora.add_link(), docora.add_link()
    retry = ("retry-all-failed", "--json", "--app")
    first, last = (
        docora.run(*retry, link.app_id).data["operation_id"] for link in (earlier, later)
    )
    age_operation(docora, first, 50 * 60)
    age_operation(docora, last, 10 * 60)
    assert docora.run("wait", first, "--timeout", "1s").code == 8
    listed = docora.run("operations", "--json").data
    assert [each["operation_id"] for each in listed] == [last, first]
    assert listed[1]["last_step_seconds"] >= 50 * 60
    assert docora.redis.ttl(f"docora:bulk:{first}") > 50 * 60, "it is kept for another hour"


def test_an_operation_whose_hash_expired_while_its_host_slept_is_known(docora: Docora) -> None:
    docora.add_links(2)
    runner = docora.start("retry-all-failed", "--in-flight", "1", "--json")
    eventually(lambda: len(docora.waiting()) == 1, "the first link")
    operation = only_operation(docora)
    before = docora.run("operations", operation, "--json").data
    key = f"docora:bulk:{operation}"
    docora.redis.delete(key)
    eventually(lambda: docora.redis.exists(key), "its next step")
    after = docora.run("operations", operation, "--json").data
    names = ("who", "command", "selection")
    assert [after[name] for name in names] == [before[name] for name in names]
    assert before["who"]
    goes_on = "The operation goes on: 1 link not queued yet.\n"
    docora.run("wait", operation, "--timeout", "1s", "--json").ended(8, says=goes_on)
    runner.kill()
    finish(runner)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("bulk_0123456789abcdef",), 3, "Operation not found or expired"),
        (("bulk_00000000da5b0a4d",), 3, "Docora's dashboard runs it"),
        (("Acme",), 2, "takes APP and REPO"),
        (("Acme", "octo/none"), 3, "Acme"),
    ],
)
def test_what_can_not_be_waited_for_is_an_error(
    docora: Docora, arguments: tuple[str, ...], code: int, said: str
) -> None:
    docora.redis.hset("docora:bulk:bulk_00000000da5b0a4d", mapping={"total": 5, "completed": 1})
    before = docora.dump()
    assert said in docora.run("wait", *arguments, "--json").ended(code).json["error"]
    assert docora.dump() == before


def looks_at_links(docora: Docora) -> int:
    calls: int = docora.redis.info("commandstats").get("cmdstat_getrange", {}).get("calls", 0)
    return calls


def test_what_was_in_sync_before_a_resync_is_no_result(docora: Docora) -> None:
    """The operation keeps a link before its claim is committed."""
    app_id = docora.add_app()
    links = [docora.link(app_id, docora.add_repository(f"octo/{n}"), "synced") for n in range(3)]
    with starting_line(docora, 1, "LOCK TABLE app_delivered_files IN EXCLUSIVE MODE"):
        runner = docora.start("resync", app_id, "--all", "--yes", "--json", env=PATIENT)
    operation_id = finish(runner).data["operation_id"]
    # As it looks to others while the transaction goes on: the jobs are pushed, the rows unchanged.
    docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
    before = looks_at_links(docora)
    waiter = docora.start("wait", operation_id, "--json")
    await_line(waiter, "Waiting")
    # One before the wait, the next to find the links, the last after the rows were read.
    eventually(lambda: looks_at_links(docora) >= before + 3, "three looks")
    docora.connection.execute("UPDATE app_repositories SET status = 'pending_snapshot'")
    with other_worker(docora, lambda _: "HTTP 503"):
        result = finish(waiter).ended(7)
    assert result.data["waited"]["failed"] == len(links)


def test_a_lost_link_does_not_end_the_wait_while_the_operation_goes_on(docora: Docora) -> None:
    docora.add_links(4)
    docora.add_worker()
    runner = docora.start("retry-all-failed", "--in-flight", "1", "--json", env=QUICK)
    # The push comes before the commit: until then the link reads failed.
    eventually(lambda: "pending_snapshot" in docora.statuses(), "a commit")
    [job_id] = docora.waiting()
    operation_id = only_operation(docora)
    with suspended(runner):
        docora.queue.empty()  # type: ignore[no-untyped-call]
        waiter = docora.start("wait", operation_id, "--json", env=QUICK)
        await_line(waiter, "no live job for 1 of the links")
        docora.enqueue(job_id)
    with other_worker(docora):
        results = [finish(process) for process in (runner, waiter)]
    assert [result.code for result in results] == [0, 0], results
    assert [result.data["waited"]["synced"] for result in results] == [4, 4]
