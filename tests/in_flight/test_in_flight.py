"""`--in-flight` of `retry-all-failed` and `resync --all`: what is queued, and when."""

import re

import pytest

from tests.in_flight.watching import Watch, assert_left_as_they_were, untouched
from tests.support.bulk_actions import RESYNC, RETRY, BulkAction
from tests.support.docora import Docora, finish
from tests.support.other_worker import GOES_ON, other_worker
from tests.support.proxy import eventually
from tests.support.row_locks import row_locks
from tests.support.running_commands import (
    only_operation,
    progress_of,
)

both = pytest.mark.parametrize("bulk", [RETRY, RESYNC], ids=str)
QUICK = {"DOCORA_OPS_DRIFT_GRACE": "0"}


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
    assert (waited["synced"], waited["unfinished"]) == (20, 4)
    assert assert_left_as_they_were(docora, before, "failed") == 6
    assert "Stopped: time ran out. 6 links were left as they were." in result.stderr
    assert progress_of(docora, only_operation(docora))["cancelled"] == "true"


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
    assert sorted(each["job_id"] for each in result.data["waited"]["lost_links"]) == sorted(lost)
    assert assert_left_as_they_were(docora, before, "failed") == 4
    assert "docora-ops repair" in result.stderr


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
    for link in links[1:]:
        docora.enqueue(link.job_id)
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
    assert result.data["taken_over"] == 3


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


def test_a_link_that_was_locked_has_its_turn_though_all_in_flight_are_lost(
    docora: Docora,
) -> None:
    app_id = docora.add_app()
    first, second = (docora.link(app_id, docora.add_repository(f"octo/{n}")) for n in range(2))
    docora.add_worker()
    with row_locks(docora, second):
        process = docora.start("retry-all-failed", "--in-flight", "2", "--json", env=QUICK)
        eventually(lambda: docora.status(first) == "pending_snapshot", "the first link")
        docora.redis.delete(docora.queue.key, f"rq:job:{first.job_id}")
    eventually(lambda: docora.waiting() == [second.job_id], "the second link")
    with other_worker(docora):
        result = finish(process)
    assert result.code == 6, result
    assert (result.data["left"], result.data["stopped_by"]) == (0, None)
    assert [each["job_id"] for each in result.data["waited"]["lost_links"]] == [first.job_id]
    assert result.data["waited"]["unfinished_by_app"] == [
        {"app_id": app_id, "app_name": "Acme Search", "links": 1}
    ]
