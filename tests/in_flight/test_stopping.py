"""What ends a run with `--in-flight` early, and leaves links as they were."""

import signal
from typing import Any

import pytest

from docora_ops.bulk import MaxFailures
from tests.in_flight.watching import assert_left_as_they_were, untouched
from tests.support.bulk_actions import RESYNC, RETRY, BulkAction
from tests.support.docora import Docora, Result, finish
from tests.support.other_worker import other_worker
from tests.support.proxy import eventually
from tests.support.running_commands import (
    STOPPING,
    only_operation,
    terminate_sessions,
)

both = pytest.mark.parametrize("bulk", [RETRY, RESYNC], ids=str)


@both
def test_too_many_failures_end_the_feeding_and_leave_the_rest_untouched(
    docora: Docora, bulk: BulkAction
) -> None:
    bulk.add_links(docora, 40)
    before = untouched(docora, bulk.status)
    command = (*bulk.command, "--in-flight", "4", "--max-failures", "3", "--json")
    with other_worker(docora, lambda _: "HTTP 503"):
        result = docora.run(*command)
    assert result.code == 7, result
    data = result.data
    assert (data["stopped_by"], data["cancelled"]) == ("max_failures", True)
    # The fourth failure ends it; those that were in flight then are awaited.
    assert 4 <= data["waited"]["failed"] == data["completed"] == data["queued"] <= 7
    assert data["left"] == 40 - data["completed"]
    if bulk is RETRY:
        touched = {failure["job_id"] for failure in data["waited"]["failed_links"]}
        before = {job_id: row for job_id, row in before.items() if job_id not in touched}
        left = untouched(docora, "failed")
        assert {job_id: left[job_id] for job_id in before} == before
        assert len(before) == data["left"]
    else:
        assert assert_left_as_they_were(docora, before, "synced") == data["left"]
    assert f"{data['left']} links were left as they were." in result.stderr
    assert "more than --max-failures 3" in result.stderr
    assert docora.waiting() == []


def stop_by_ctrl_c(docora: Docora, *options: str) -> tuple[Result, dict[str, Any]]:
    docora.add_links(20, apps=2)
    before = untouched(docora, "failed")
    process = docora.start("retry-all-failed", "--in-flight", "4", "--json", *options)
    eventually(lambda: len(docora.waiting()) == 4, "four jobs")
    process.send_signal(signal.SIGINT)
    return finish(process), before


def test_ctrl_c_leaves_what_is_in_flight_and_the_same_command_finishes(docora: Docora) -> None:
    result, before = stop_by_ctrl_c(docora)
    assert result.code == 130, result
    assert STOPPING in result.stderr
    assert (result.data["stopped_by"], result.data["left"]) == ("interrupted", 16)
    assert result.data["waited"]["unfinished"] == len(docora.waiting()) == 4
    assert assert_left_as_they_were(docora, before, "failed") == 16
    docora.assert_sound()
    with other_worker(docora):
        again = docora.run("retry-all-failed", "--in-flight", "4", "--json")
        eventually(lambda: docora.statuses() == {"synced": 20}, "all")
    assert (again.code, again.data["total"]) == (0, 16)


def test_a_cancellation_is_seen_while_nothing_ends(docora: Docora) -> None:
    docora.add_links(10)
    process = docora.start("retry-all-failed", "--in-flight", "2", "--json")
    eventually(lambda: len(docora.waiting()) == 2, "two jobs")
    operation_id = only_operation(docora)
    assert docora.run("cancel", operation_id).code == 0
    docora.redis.expire(f"docora:bulk:{operation_id}", 100)
    eventually(lambda: docora.redis.ttl(f"docora:bulk:{operation_id}") > 100, "a look at it")
    with other_worker(docora):
        result = finish(process)
    assert result.code == 6, result
    assert result.data["stopped_by"] == "cancelled"
    assert (result.data["waited"]["synced"], result.data["left"]) == (2, 8)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_server_that_is_lost_is_an_error_with_what_was_done(
    docora: Docora, *, as_json: bool
) -> None:
    docora.add_links(6)
    command = ("retry-all-failed", "--in-flight", "2", *(["--json"] if as_json else []))
    process = docora.start(*command)
    eventually(lambda: docora.statuses().get("pending_snapshot") == 2, "two links")
    terminate_sessions(docora)
    result = finish(process)
    assert result.code == 5, result
    assert "Stopped after 2 of 6 links." in result.stderr
    if as_json:
        assert (result.json["code"], result.data["left"]) == ("postgres", 4)
        assert result.data["waited"]["unfinished"] == 2
    else:
        assert "2 still to come" in result.stdout
    docora.assert_sound()


def test_the_reason_is_what_was_known_when_it_stopped(docora: Docora) -> None:
    docora.add_links(60)
    seen: list[str] = []

    def fail_each_fourth(job_id: str) -> str | None:
        seen.append(job_id)
        return "HTTP 503" if len(seen) % 4 == 0 else None

    with other_worker(docora, fail_each_fourth):
        result = docora.run(
            *("retry-all-failed", "--in-flight", "1", "--max-failures", "20%", "--json")
        )
    data = result.data
    assert (data["results_at_stop"], data["failed_at_stop"]) == (20, 5)
    reason = "5 of 20 snapshots failed again, more than --max-failures 20%"
    assert f"No further link is queued: {reason}.\n" in result.stderr
    assert f"Stopped: {reason}. 40 links were left as they were." in result.stderr


@pytest.mark.parametrize(
    ("limit", "failed", "synced", "is_exceeded"),
    [
        (MaxFailures(0), 1, 0, True),
        (MaxFailures(2), 2, 8, False),
        (MaxFailures(20, is_percent=True), 4, 15, False),
        (MaxFailures(20, is_percent=True), 4, 16, False),
        (MaxFailures(20, is_percent=True), 5, 15, True),
    ],
)
def test_a_share_of_failures_counts_from_twenty_results_on(
    limit: MaxFailures, failed: int, synced: int, *, is_exceeded: bool
) -> None:
    assert limit.is_exceeded(failed, synced) is is_exceeded
    assert not MaxFailures(0, is_percent=True).is_exceeded(19, 0)
