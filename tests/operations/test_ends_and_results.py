"""What came of a bulk operation, and why it ended: in `history` and `operations`."""

from typing import Any

from tests.support.bullmq import Bullmq
from tests.support.docora import Docora, finish
from tests.support.fork_server import ForkedProcess
from tests.support.other_worker import end_job, other_worker
from tests.support.proxy import eventually
from tests.support.running_commands import await_line, only_operation

NO_DATABASE = {"DATABASE_URL": None}
PACED = ("retry-all-failed", "--error", "HTTP 500", "--in-flight", "2", "--json")


def told(docora: Docora) -> dict[str, Any]:
    """What the commands tell of the only operation, which is the same, also in its record."""
    operation_id = only_operation(docora)
    [listed] = docora.run("operations", "--json", env=NO_DATABASE).data
    shown = docora.run("operations", operation_id, "--json", env=NO_DATABASE).data
    [entry] = [
        each
        for each in docora.run("history", "--json", env=NO_DATABASE).data
        if each["operation_id"] == operation_id and each["command"] != "cancel"
    ]
    for name in ("failures", "failed_links", "waited"):
        del shown[name]
    for each in (shown, listed):
        del each["last_step_at"], each["last_step_seconds"]  # to a second
    assert shown == listed
    names = ("who", "command", "selection", "stopped_by", "cancelled_by", "results")
    assert {name: entry[name] for name in names} == {name: listed[name] for name in names}
    [record] = docora.run("report", "--operation", operation_id, "--json").data["operations"]
    assert record.items() >= listed.items()
    assert len(record["failed_links"]) == listed["results"]["failed"]
    return {**listed, "counts": entry["counts"]}


def screens(docora: Docora) -> list[str]:
    operation_id = only_operation(docora)
    return [
        " ".join(docora.run(*command, env=NO_DATABASE).stdout.split())
        for command in (("operations",), ("operations", operation_id), ("history",))
    ]


def results(synced: int, failed: int, unfinished: int) -> dict[str, int]:
    return {"synced": synced, "failed": failed, "gone": 0, "unfinished": unfinished}


def start_with_results(docora: Docora) -> ForkedProcess:
    """A run of six links, with one in sync, one failed again, and two in flight."""
    docora.add_links(6)
    process = docora.start(*PACED)
    for job_id, error in zip(
        [link.job_id for link in docora.links()[:2]], (None, "HTTP 500"), strict=True
    ):
        eventually(lambda job_id=job_id: job_id in docora.waiting(), "a job")  # type: ignore[misc]
        end_job(docora, job_id, error)
    eventually(lambda: docora.statuses().get("pending_snapshot") == 2, "two in flight")
    eventually(lambda: len(docora.waiting()) == 2, "two jobs")
    return process


def test_a_colleague_who_cancels_is_named_and_the_results_are_there(docora: Docora) -> None:
    process = start_with_results(docora)
    operation_id = only_operation(docora)
    docora.run("cancel", operation_id).ended(0)
    await_line(process, "No further link is queued: ")
    with other_worker(docora):
        finish(process).ended(7)
    found = told(docora)
    assert (found["state"], found["stopped_by"]) == ("cancelled", "cancelled")
    assert found["cancelled_by"] == found["who"]
    assert found["results"] == results(3, 1, 0)
    assert (found["command"], found["selection"]) == (
        "retry-all-failed",
        {"error": ["HTTP 500"], "in_flight": 2},
    )
    for screen in screens(docora):
        assert f"cancelled by {found['cancelled_by']}" in screen
        assert "1 failed again, 3 in sync" in screen
        assert "retry-all-failed --error 'HTTP 500' --in-flight 2" in screen
        assert found["who"] in screen


def newest(docora: Docora, count: int) -> tuple[list[Any], list[str], str]:
    """The newest changes as `history` has them in JSON and in its table, and the report."""
    limit = ("history", "--limit", str(count))
    entries = docora.run(*limit, "--json", env=NO_DATABASE).data
    rows = docora.run(*limit, env=NO_DATABASE).stdout.splitlines()
    return entries, rows[-count:], docora.run("report").stdout


def test_a_resync_tells_how_many_delivery_records_it_deleted_or_marked(docora: Docora) -> None:
    links = docora.add_link("synced"), docora.add_link("synced")
    docora.add_deliveries(links[0], 3)
    docora.add_deliveries(links[1], 1)
    whole = (links[1].app_id, "--all", "--yes")
    for arguments in ((*links[0].ids, "--update"), links[0].ids, links[0].ids, whole):
        assert docora.run("resync", *arguments).code == 0
    entries, rows, report = newest(docora, 4)
    one = {"total": 1, "already_queued": 1}
    assert [each["counts"] for each in entries[::-1]] == [
        {"total": 1, "queued": 1, "deliveries_cleared": 3},
        {**one, "deliveries_cleared": 3},
        one,
        {"total": 1, "queued": 1, "deliveries_cleared": 1},
    ]
    for row, result in zip(
        rows[::-1],
        (
            "1 queued, 3 delivery records marked",
            "1 already queued, 3 delivery records deleted",
            "1 already queued",
            "1 queued, 1 delivery record deleted",
        ),
        strict=True,
    ):
        assert result in row.split("\t")
        assert f"; `{result}`" in report


def test_the_awaited_result_of_one_link_stands_with_its_change(docora: Docora) -> None:
    good, bad, late = (docora.add_link() for _ in range(3))
    with other_worker(docora, lambda job_id: "HTTP 503" if job_id == bad.job_id else None):
        codes = [
            docora.run(*command, "--wait").code
            for command in (("retry", *good.ids), ("retry", *bad.ids), ("resync", *good.ids))
        ]
        # Ends without a wait.
        codes.append(docora.run("retry", *bad.ids).code)
    codes.append(docora.run("retry", *late.ids, "--wait", "--timeout", "1").code)
    assert codes == [0, 7, 0, 0, 8]
    entries, rows, report = newest(docora, 5)
    assert [each["results"] for each in entries[::-1]] == [
        results(1, 0, 0),
        results(0, 1, 0),
        results(1, 0, 0),
        None,
        results(0, 0, 1),
    ]
    assert {each["operation_id"] for each in entries} == {None}
    for row, end in zip(
        rows[::-1],
        ("; 1 in sync", "; 1 failed again", "; 1 in sync", "", "; 1 not finished"),
        strict=True,
    ):
        assert f"1 queued{end}" in row.split("\t")
        assert f"; `1 queued{end}`" in report


def test_beside_docoras_own_workers_a_resync_tells_the_same(bullmq: Bullmq, docora: Docora) -> None:
    link = docora.add_link("synced")
    docora.add_deliveries(link, 2)
    with bullmq.docora_at_work():
        bullmq.run("resync", *link.ids, "--yes", "--wait", "--timeout", "50").ended(0)
    [entry] = bullmq.run("history", "--json").data
    assert entry["counts"] == {"total": 1, "reset": 1, "deliveries_cleared": 2}
    assert entry["results"] == results(1, 0, 0)
