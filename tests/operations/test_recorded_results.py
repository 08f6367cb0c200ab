"""Results that nobody waited for, in `operations`, `history` and `report`."""

from datetime import UTC, datetime

import pytest

from docora_ops.jobs import JobEnd
from docora_ops.operations import Results
from docora_ops.queue import outcomes
from docora_ops.queue.outcomes import AskedResults, SnapshotOutcome, read_results, record_outcome
from docora_ops.queue.redis_client import server_time
from tests.support.docora import Docora
from tests.support.snapshots import Snapshots

ONE_TRY = {"MAX_RETRY_ATTEMPTS": "1"}


@pytest.mark.slow
def test_nobody_waits_and_the_results_are_told(snapshots: Snapshots, docora: Docora) -> None:
    links = snapshots.add_links(["Good", "Bad", "Last"])
    snapshots.receiver.answer = lambda request: 500 if request.app == "Bad" else 200
    started = docora.run("retry-all-failed", "--limit", "2", "--yes", "--json", env=ONE_TRY)
    operation_id = started.data["operation_id"]
    assert docora.run("operations", operation_id, "--json").data["results"] is None
    assert snapshots.work(**ONE_TRY).code == 0
    assert docora.run("retry", *links["Last"].ids, env=ONE_TRY).code == 0
    assert snapshots.work(**ONE_TRY).code == 0
    # A later change of the same link has a result of its own.
    snapshots.receiver.answer = lambda _: 200
    [bad] = [link for link in links.values() if docora.status(link) == "failed"]
    assert docora.run("retry", *bad.ids, env=ONE_TRY).code == 0
    assert snapshots.work(**ONE_TRY).code == 0

    both = {"synced": 1, "failed": 1, "gone": 0, "unfinished": 0}
    one = {"synced": 1, "failed": 0, "gone": 0, "unfinished": 0}
    assert docora.run("operations", operation_id, "--json").data["results"] == both
    [listed] = docora.run("operations", "--json").data
    assert listed["results"] == both
    assert [entry["results"] for entry in docora.run("history", "--json").data] == [one, one, both]
    report = docora.run("report", "--json").data
    assert [entry["results"] for entry in report["changes"]] == [both, one, one]
    assert [operation["results"] for operation in report["operations"]] == [both]
    for command in (("operations", operation_id), ("history",), ("report",)):
        assert "1 failed again, 1 in sync" in docora.run(*command).stdout
    for key in docora.redis.keys(f"*{operation_id}*"):
        if docora.redis.ttl(key) < 12 * 3_600:  # long before the end of a shift
            docora.redis.delete(key)
    for command in (("history",), ("report",)):
        assert "1 failed again, 1 in sync" in docora.run(*command).stdout


def test_results_of_snapshots_that_were_running_already_are_told_apart(docora: Docora) -> None:
    links = docora.add_link(), docora.add_link()
    docora.start_job(links[1].job_id)
    operation_id = docora.run("retry-all-failed", "--yes", "--json").data["operation_id"]
    for link in links:
        at = datetime.fromtimestamp(server_time(docora.redis), UTC)
        ref = docora.actions().ref(link)
        end = SnapshotOutcome(at, *link.ids, ref.id, JobEnd.FAILED)
        record_outcome(docora.redis, end, keep_entry=True)
    document, screen = docora.run_together(
        ("operations", operation_id, "--json"), ("operations", operation_id)
    )
    assert (document.data["put_to_work"], document.data["results"]["failed"]) == (1, 2)
    assert "2 failed again" in screen.stdout
    assert "The results include 1 snapshot that had already been running.\n" in screen.stdout


def test_unrecorded_results_are_unknown(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "ENTRIES_KEPT", 100)
    client = docora.redis
    since = datetime.fromtimestamp(int(server_time(client)), UTC)

    def record(app_id: str) -> None:
        at = datetime.fromtimestamp(server_time(client), UTC)
        end = SnapshotOutcome(at, app_id, "repo_x", None, JobEnd.SYNCED)
        record_outcome(client, end, keep_entry=True)

    def results() -> list[Results | None]:
        asked = [AskedResults(since, [f"{app_id}-repo_x"]) for app_id in ("app_a", "app_b")]
        return read_results(client, asked)

    record("app_a")
    assert results() == [Results(1, 0, 0, 0), None]
    for _ in range(300):
        record("app_c")
    record("app_a")  # of a later job
    assert results() == [None, None]
