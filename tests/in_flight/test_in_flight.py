"""`--in-flight` and `--max-failures` of `retry-all-failed` and `resync --all`."""

import re
import signal
from collections import Counter
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from tests.support.bulk_actions import RESYNC, RETRY, BulkAction
from tests.support.docora import Docora, Result, finish
from tests.support.other_worker import GOES_ON, other_worker
from tests.support.proxy import eventually
from tests.support.running_commands import (
    STOPPING,
    only_operation,
    progress_of,
    terminate_sessions,
)

both = pytest.mark.parametrize("bulk", [RETRY, RESYNC], ids=str)
QUICK = {"DOCORA_OPS_DRIFT_GRACE": "0"}


class Watch:
    """What a worker sees of the links in flight."""

    def __init__(self, docora: Docora, error: Callable[[str], str | None] = lambda _: None) -> None:
        self.docora = docora
        self.error = error
        self.taken: list[str] = []
        self.most = 0
        self.most_by_app: Counter[str] = Counter()

    def __call__(self, job_id: str) -> str | None:
        self.taken.append(job_id)
        rows = self.docora.actions().database.rows(
            "SELECT app_id, count(*) FROM app_repositories WHERE status = 'pending_snapshot'"
            " GROUP BY app_id",
            {},
        )
        by_app: Counter[str] = Counter(dict(rows))
        self.most = max(self.most, by_app.total())
        self.most_by_app |= by_app
        return self.error(job_id)


def untouched(docora: Docora, status: str) -> dict[str, Any]:
    """The version of each row with this status."""
    rows = docora.connection.execute(
        "SELECT app_id || '-' || repository_id AS job_id, xmin::text, ctid::text"
        " FROM app_repositories WHERE status = %s",
        (status,),
    ).fetchall()
    return {row["job_id"]: row for row in rows}


def assert_left_as_they_were(docora: Docora, before: dict[str, Any], status: str) -> int:
    """No row with the status has changed. Returns how many there are."""
    left = untouched(docora, status)
    assert left == {job_id: before[job_id] for job_id in left}
    return len(left)


@both
@pytest.mark.parametrize("most", [1, 3, 10])
def test_at_most_n_links_have_no_result_and_all_get_one(
    docora: Docora, bulk: BulkAction, most: int
) -> None:
    bulk.add_links(docora, 25, apps=1 if bulk is RESYNC else 5)
    watch = Watch(docora)
    with other_worker(docora, watch):
        result = docora.run(*bulk.command, "--in-flight", str(most), "--json")
    assert result.code == 0, result
    assert sorted(watch.taken) == sorted(link.job_id for link in docora.links())
    assert 1 <= watch.most <= most
    data = result.data
    assert (data["in_flight"], data["stopped_by"], data["left"]) == (most, None, 0)
    assert (data["queued"], data["completed"], data["cancelled"]) == (25, 25, False)
    assert (data["waited"]["synced"], data["waited"]["unfinished"]) == (25, 0)
    progress = progress_of(docora, data["operation_id"])
    assert (progress["completed"], progress["cancelled"]) == ("25", "false")
    assert docora.statuses() == {"synced": 25}


def test_the_slots_are_used_and_apps_take_turns(docora: Docora) -> None:
    docora.add_links(12, apps=3)
    process = docora.start("retry-all-failed", "--in-flight", "6", "--json")
    eventually(lambda: len(docora.waiting()) == 6, "six jobs")
    order = [job_id.partition("-")[0][-1] for job_id in docora.waiting()]
    assert order == ["1", "2", "3", "1", "2", "3"]
    watch = Watch(docora)
    with other_worker(docora, watch):
        assert finish(process).code == 0
    assert watch.most == 6
    assert [job_id.partition("-")[0][-1] for job_id in watch.taken] == ["1", "2", "3"] * 4


def test_an_app_that_never_answers_holds_its_share_only(docora: Docora) -> None:
    docora.add_links(30, apps=3)
    before = untouched(docora, "failed")
    watch = Watch(docora, lambda job_id: GOES_ON if job_id < f"app_{2:024x}" else None)
    with other_worker(docora, watch):
        process = docora.start("retry-all-failed", "--in-flight", "4", "--timeout", "3", "--json")
        eventually(lambda: docora.statuses().get("synced") == 20, "the links of the others")
        result = finish(process)
    # Of three apps each has one slot; the last one of all has four.
    assert watch.most_by_app[f"app_{1:024x}"] == 4
    assert result.code == 8, result
    assert (result.data["stopped_by"], result.data["left"]) == ("timeout", 6)
    waited = result.data["waited"]
    assert (waited["synced"], waited["unfinished"], waited["jobs"]["running"]) == (20, 4, 4)
    assert assert_left_as_they_were(docora, before, "failed") == 6
    assert "Stopped: time ran out. 6 links were left as they were." in result.stderr
    assert progress_of(docora, only_operation(docora))["cancelled"] == "true"


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
        touched = {failure["job_id"] for failure in data["failed_links"]}
        before = {job_id: row for job_id, row in before.items() if job_id not in touched}
        left = untouched(docora, "failed")
        assert {job_id: left[job_id] for job_id in before} == before
        assert len(before) == data["left"]
    else:
        assert assert_left_as_they_were(docora, before, "synced") == data["left"]
    assert f"{data['left']} links were left as they were." in result.stderr
    assert "more than --max-failures 3" in result.stderr
    assert docora.waiting() == []


def test_a_share_of_failures_counts_from_twenty_results_on(docora: Docora) -> None:
    docora.add_links(60)
    seen: list[str] = []

    def fail_each_third(job_id: str) -> str | None:
        seen.append(job_id)
        return "HTTP 503" if len(seen) % 3 == 0 else None

    command = ("retry-all-failed", "--in-flight", "1", "--json", "--max-failures")
    with other_worker(docora, fail_each_third):
        stopped = docora.run(*command, "29%")
        assert stopped.code == 7, stopped
        assert (stopped.data["completed"], stopped.data["stopped_by"]) == (20, "max_failures")
        goes_on = docora.run(*command, "50%")
    assert goes_on.code == 7, goes_on
    assert (goes_on.data["completed"], goes_on.data["stopped_by"]) == (46, None)


def test_without_a_failure_too_many_nothing_is_stopped(docora: Docora) -> None:
    docora.add_links(10)
    failing = set(sorted(link.job_id for link in docora.links())[:2])
    command = ("retry-all-failed", "--in-flight", "2", "--max-failures", "2", "--json")
    with other_worker(docora, lambda job_id: "HTTP 503" if job_id in failing else None):
        result = docora.run(*command)
    assert result.code == 7, result
    assert (result.data["stopped_by"], result.data["waited"]["synced"]) == (None, 8)


def test_the_first_failure_is_too_many_with_none_allowed(docora: Docora) -> None:
    docora.add_links(10)
    with other_worker(docora, lambda _: "HTTP 503"):
        result = docora.run("retry-all-failed", "--in-flight", "1", "--max-failures", "0", "--json")
    assert (result.code, result.data["completed"], result.data["left"]) == (7, 1, 9)


def test_lost_jobs_keep_their_slots_and_are_named(docora: Docora) -> None:
    docora.add_links(6, apps=2)
    before = untouched(docora, "failed")
    docora.add_worker()
    process = docora.start("retry-all-failed", "--in-flight", "2", "--json", env=QUICK)
    eventually(lambda: len(docora.waiting()) == 2, "two jobs")
    lost = docora.waiting()
    docora.queue.empty()  # type: ignore[no-untyped-call]
    result = finish(process)
    assert result.code == 6, result
    assert (result.data["stopped_by"], result.data["left"]) == ("lost_jobs", 4)
    assert sorted(each["job_id"] for each in result.data["lost_links"]) == sorted(lost)
    assert assert_left_as_they_were(docora, before, "failed") == 4
    assert "docora-ops repair" in result.stderr


def test_a_lost_job_does_not_end_what_the_other_slots_can_do(docora: Docora) -> None:
    docora.add_links(12, apps=3)
    docora.add_worker()
    process = docora.start("retry-all-failed", "--in-flight", "3", "--json", env=QUICK)
    eventually(lambda: len(docora.waiting()) == 3, "three jobs")
    [lost, *_] = docora.waiting()
    docora.redis.lrem(docora.queue.key, 0, lost)
    docora.redis.delete(f"rq:job:{lost}")
    with other_worker(docora):
        result = finish(process)
    assert result.code == 6, result
    assert (result.data["waited"]["synced"], result.data["left"]) == (11, 0)
    assert [each["job_id"] for each in result.data["lost_links"]] == [lost]


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


def test_a_killed_run_leaves_n_in_flight_and_the_same_command_finishes(docora: Docora) -> None:
    docora.add_links(200, apps=4)
    before = untouched(docora, "failed")
    seen = Event()
    watch = Watch(docora, lambda _: seen.set() if len(watch.taken) == 20 else None)
    with other_worker(docora, watch):
        process = docora.start("retry-all-failed", "--in-flight", "6", "--json")
        assert seen.wait(60)
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        assert watch.most <= 6
        eventually(lambda: not docora.waiting(), "an empty queue")
    statuses = docora.statuses()
    assert statuses.get("pending_snapshot", 0) == 0
    assert assert_left_as_they_were(docora, before, "failed") == statuses["failed"]
    docora.assert_sound()
    with other_worker(docora):
        again = docora.run("retry-all-failed", "--in-flight", "6", "--json")
    assert (again.code, again.data["total"]) == (0, statuses["failed"])
    assert docora.statuses() == {"synced": 200}


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


def test_a_link_that_is_removed_frees_its_slot(docora: Docora) -> None:
    docora.add_links(5)
    process = docora.start("retry-all-failed", "--in-flight", "1", "--json")
    eventually(docora.waiting, "a job")
    [first] = docora.waiting()
    docora.connection.execute(
        "DELETE FROM app_repositories WHERE app_id || '-' || repository_id = %s", (first,)
    )
    with other_worker(docora):
        result = finish(process)
    assert result.code == 6, result
    assert (result.data["waited"]["gone"], result.data["waited"]["synced"]) == (1, 4)


def test_a_running_job_takes_no_slot_and_is_followed(docora: Docora) -> None:
    running, *others = [docora.add_link() for _ in range(4)]
    docora.start_job(running.job_id)
    docora.set_link(running, status="failed")
    with other_worker(docora):
        process = docora.start("retry-all-failed", "--in-flight", "1", "--json")
        eventually(
            lambda: all(docora.status(link) == "synced" for link in others), "the other links"
        )
        docora.set_link(running, status="synced")
        result = finish(process)
    assert result.code == 0, result
    assert (result.data["already_running"], result.data["queued"]) == (1, 3)
    assert result.data["waited"]["synced"] == 4


def test_a_scheduler_beside_it_is_named(docora: Docora) -> None:
    docora.add_links(12)
    assert docora.run("schedule").code == 0
    command = ("retry-all-failed", "--in-flight", "2", "--max-failures", "1", "--json")
    process = docora.start(*command)
    eventually(lambda: docora.statuses().get("pending_snapshot") == 2, "two links")
    with other_worker(docora, lambda _: "HTTP 503"):
        result = finish(process)
    assert result.code == 7, result
    assert result.data["already_queued"] >= 2
    assert "had been queued or changed before, by a scheduler or somebody else" in result.stderr


def test_a_job_that_a_scheduler_has_queued_meanwhile_is_not_queued_twice(docora: Docora) -> None:
    docora.add_links(4)
    links = docora.links()
    process = docora.start("retry-all-failed", "--in-flight", "1", "--batch-size", "1", "--json")
    eventually(docora.waiting, "a job")
    assert docora.run("schedule").code == 0
    assert sorted(docora.waiting()) == [link.job_id for link in links]
    for number, link in enumerate(links):
        eventually(lambda: docora.statuses().get("pending_snapshot") == 1, f"turn {number}")
        assert docora.status(link) == "pending_snapshot"
        assert docora.doubled_jobs() == []
        docora.redis.lrem(docora.queue.key, 0, link.job_id)
        docora.redis.delete(f"rq:job:{link.job_id}")
        docora.set_link(link, status="synced")
    result = finish(process)
    assert result.code == 0, result
    assert (result.data["queued"], result.data["already_queued"]) == (1, 3)


def test_a_link_that_can_not_be_queued_takes_no_slot(docora: Docora) -> None:
    docora.add_links(4)
    [bad, *_] = sorted(link.job_id for link in docora.links())
    docora.redis.set(f"rq:job:{bad}", "not a job")
    with other_worker(docora):
        result = docora.run("retry-all-failed", "--in-flight", "1", "--json")
    assert result.code == 6, result
    assert [each["job_id"] for each in result.data["failures"]] == [bad]
    assert result.data["waited"]["synced"] == 3


def test_a_dry_run_plans_all(docora: Docora) -> None:
    docora.add_links(4)
    result = docora.run("retry-all-failed", "--in-flight", "1", "--dry-run", "--json")
    assert (result.code, len(result.data["links"])) == (0, 4)
    assert docora.waiting() == []


def test_nothing_to_do_is_no_error(docora: Docora) -> None:
    result = docora.run("retry-all-failed", "--in-flight", "3", "--json")
    assert (result.code, result.data["total"], result.data["left"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-failures", "3"), "--max-failures needs --in-flight"),
        (("--in-flight", "2", "--max-failures", "x"), "neither a number nor a percentage"),
        (("--in-flight", "2", "--max-failures", "101%"), "neither a number nor a percentage"),
        (("--in-flight", "2", "--max-failures", "-1"), "neither a number nor a percentage"),
        (("--in-flight", "0"), "--in-flight"),
    ],
)
def test_what_makes_no_sense_is_refused(
    docora: Docora, options: tuple[str, ...], said: str
) -> None:
    docora.add_links(2)
    before = docora.dump()
    result = docora.run("retry-all-failed", *options, "--json")
    assert result.code == 2, result
    assert said in result.json["error"]
    assert docora.dump() == before


def test_the_audit_entry_has_the_options(docora: Docora) -> None:
    docora.add_links(2)
    with other_worker(docora):
        docora.run("retry-all-failed", "--in-flight", "2", "--max-failures", "10%")
    first = docora.audit_entries()[0]
    assert re.search(r'"in_flight": 2', first["selection"])
    assert re.search(r'"max_failures": "10%"', first["selection"])


def test_each_round_stands_at_the_head_of_the_queue_in_turns(docora: Docora) -> None:
    docora.add_links(8, apps=2)
    other = docora.enqueue("other")
    process = docora.start("retry-all-failed", "--in-flight", "4", "--front", "--json")
    eventually(lambda: len(docora.waiting()) == 5, "four jobs")
    *ours, last = docora.waiting()
    assert [job_id.partition("-")[0][-1] for job_id in ours] == ["1", "2", "1", "2"]
    assert ours == sorted(ours, key=lambda job_id: job_id.partition("-")[2])
    assert last == other.id
    with other_worker(docora):
        assert finish(process).code == 0


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


def test_others_are_named_though_nothing_has_stopped_it(docora: Docora) -> None:
    docora.add_links(3)
    assert docora.run("schedule").code == 0
    process = docora.start("retry-all-failed", "--in-flight", "1", "--json")
    eventually(lambda: docora.statuses().get("pending_snapshot") == 1, "a link")
    with other_worker(docora):
        result = finish(process)
    assert result.code == 0, result
    assert result.data["already_queued"] >= 1
    assert "had been queued or changed before, by a scheduler or somebody else." in result.stderr


def test_a_postponed_link_has_its_turn_though_all_in_flight_are_lost(docora: Docora) -> None:
    app_id = docora.add_app()
    first, second = (docora.link(app_id, docora.add_repository(f"octo/{n}")) for n in range(2))
    docora.enqueue(second.job_id)
    docora.redis.lrem(docora.queue.key, 0, second.job_id)  # doubtful
    docora.add_worker()
    process = docora.start("retry-all-failed", "--in-flight", "2", "--json", env=QUICK)
    eventually(lambda: docora.status(first) == "pending_snapshot", "the first link")
    docora.redis.lrem(docora.queue.key, 0, first.job_id)
    docora.redis.delete(f"rq:job:{first.job_id}")
    eventually(lambda: docora.waiting() == [second.job_id], "the second link")
    with other_worker(docora):
        result = finish(process)
    assert result.code == 6, result
    assert (result.data["left"], result.data["stopped_by"]) == (0, None)
    assert [each["job_id"] for each in result.data["lost_links"]] == [first.job_id]
    assert result.data["unfinished_by_app"] == [
        {"app_id": app_id, "app_name": "Acme Search", "links": 1}
    ]
