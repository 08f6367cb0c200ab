"""`--in-flight` of `retry-all-failed` and `resync --all`: what is queued and when, and its end."""

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import takewhile
from threading import Event

import pytest

from docora_ops.actions import ChangeOptions, LinkChoice, bulk, operation_log, retry_all_failed
from docora_ops.operations import MaxFailures
from docora_ops.queue.operation_links import HEARD
from docora_ops.queue.operation_records import part_key
from tests.support.bulk_actions import RESYNC, sleep_by
from tests.support.bullmq import Bullmq
from tests.support.docora import Docora, Process, finish
from tests.support.other_worker import GOES_ON, end_job, other_worker
from tests.support.proxy import eventually, patience
from tests.support.row_locks import released_when_waited_for, row_locks
from tests.support.rows import in_turns
from tests.support.running_commands import STOPPING, await_line, only_operation, progress_of

QUICK = {"DOCORA_OPS_DRIFT_GRACE": "0"}


class Watch:
    """Notes how many links are in flight, each time that a worker takes a job."""

    def __init__(self, docora: Docora, error: Callable[[str], str | None] = lambda _: None) -> None:
        self.docora = docora
        self.error = error
        self.taken: list[str] = []
        self.most_by_app: Counter[str] = Counter()
        self.most = 0

    def __call__(self, job_id: str) -> str | None:
        self.taken.append(job_id)
        links = self.docora.connection.execute(
            "SELECT app_id FROM app_repositories WHERE status = 'pending_snapshot'"
        )
        by_app = Counter(row["app_id"] for row in links)
        self.most = max(self.most, by_app.total())
        self.most_by_app |= by_app
        return self.error(job_id)


def failed_rows(docora: Docora) -> set[tuple[str, ...]]:
    """The version of each failed link's row."""
    rows = docora.connection.execute(
        "SELECT repository_id, app_id, xmin::text, ctid::text FROM app_repositories"
        " WHERE status = 'failed'"
    )
    return {tuple(row.values()) for row in rows}


def test_at_most_n_links_have_no_result_and_all_get_one(docora: Docora) -> None:
    """With N = 1: test_too_many_failures_end_the_feeding_and_leave_the_rest_untouched."""
    RESYNC.add_links(docora, 15)
    watch = Watch(docora)
    with other_worker(docora, watch):
        result = docora.run(*RESYNC.command, "--in-flight", "3", "--json").ended(0)
    assert sorted(watch.taken) == sorted(link.job_id for link in docora.links())
    assert 1 <= watch.most <= 3
    data = result.data
    assert (data["in_flight"], data["stopped_by"], data["left"]) == (3, None, 0)
    assert (data["queued"], data["completed"], data["cancelled"]) == (15, 15, False)
    assert (data["waited"]["synced"], data["waited"]["unfinished"]) == (15, 0)
    progress = progress_of(docora, data["operation_id"])
    assert (progress["completed"], progress["cancelled"]) == ("15", "false")
    assert docora.statuses() == {"synced": 15}


def test_an_app_that_never_answers_holds_its_share_only(docora: Docora) -> None:
    docora.add_links(18, apps=3)
    before = failed_rows(docora)
    watch = Watch(docora, lambda job_id: GOES_ON if job_id < f"app_{2:024x}" else None)
    app_id = f"app_{1:024x}"
    with other_worker(docora, watch):
        process = docora.start("retry-all-failed", "--in-flight", "4", "--json")
        eventually(lambda: docora.statuses().get("synced") == 12, "the links of the others")
        # Of three apps each has one slot; the last one of all has four.
        # The worker may take the last one before its row is committed, and see three then.
        eventually(lambda: docora.statuses().get("pending_snapshot") == 4, "its further links")
        result = finish(process, signal.SIGINT)
    assert watch.most_by_app[app_id] <= 4
    assert (result.code, result.data["left"]) == (130, 2), result
    waited = result.data["waited"]
    assert (waited["synced"], waited["unfinished"]) == (12, 4)
    left = failed_rows(docora)
    assert (len(left), left <= before) == (2, True)


def test_when_time_runs_out_the_rest_stays_failed(docora: Docora) -> None:
    docora.add_links(6, apps=6)
    before = failed_rows(docora)
    docora.add_worker()
    result = docora.run("retry-all-failed", "--in-flight", "4", "--timeout", "1", "--json").ended(8)
    assert (result.data["stopped_by"], result.data["left"]) == ("timeout", 4)
    assert (result.data["waited"]["synced"], result.data["waited"]["unfinished"]) == (0, 2)
    left = failed_rows(docora)
    assert (len(left), left <= before) == (4, True)
    assert "No further link is queued: timeout.\n" in result.stderr
    assert progress_of(docora, only_operation(docora))["cancelled"] == "true"


def test_lost_jobs_keep_their_slots_and_are_named(docora: Docora) -> None:
    docora.add_links(6, apps=2)
    before = failed_rows(docora)
    docora.add_worker()
    process = docora.start("retry-all-failed", "--in-flight", "2", "--json", env=QUICK)
    eventually(lambda: len(docora.waiting()) == 2, "two jobs")
    lost = docora.waiting()
    docora.queue.empty()  # type: ignore[no-untyped-call]
    result = finish(process).ended(6)
    assert (result.data["stopped_by"], result.data["left"]) == ("lost_jobs", 4)
    assert sorted(each["job_id"] for each in result.data["waited"]["lost_links"]) == sorted(lost)
    left = failed_rows(docora)
    assert (len(left), left <= before) == (4, True)
    assert "docora-ops repair" in result.stderr


def test_a_running_job_takes_no_slot_and_is_followed(docora: Docora) -> None:
    running, *others = [docora.add_link() for _ in range(4)]
    docora.start_job(running.job_id)
    docora.set_link(running, status="failed")
    with other_worker(docora):
        process = docora.start("retry-all-failed", "--in-flight", "1", "--json")
        eventually(lambda: {*map(docora.status, others)} == {"synced"}, "the other links")
        docora.set_link(running, status="synced")
        result = finish(process).ended(0)
    assert (result.data["already_running"], result.data["queued"]) == (1, 3)
    assert result.data["waited"]["synced"] == 4


def test_links_that_were_locked_are_queued_at_the_same_pace(docora: Docora) -> None:
    docora.add_links(5)
    docora.add_worker()
    command = ("retry-all-failed", "--in-flight", "1", "--timeout", "2", "--json")
    with row_locks(docora) as holder:
        with released_when_waited_for(docora, holder):
            process = docora.start(*command, env={"DOCORA_OPS_LOCK_TIMEOUT": "60"})
        result = finish(process)
    assert (result.code, result.data["queued"], result.data["left"]) == (8, 1, 4), result
    assert len(docora.waiting()) == 1


# What ends it early


def test_too_many_failures_end_the_feeding_and_leave_the_rest_untouched(docora: Docora) -> None:
    docora.add_links(60)
    before = failed_rows(docora)
    watch = Watch(docora, lambda _: "HTTP 503" if len(watch.taken) % 4 == 0 else None)
    command = ("retry-all-failed", "--in-flight", "1", "--max-failures", "20%", "--json")
    with other_worker(docora, watch):
        result = docora.run(*command)
    assert (result.code, watch.most) == (7, 1), result
    data = result.data
    assert (data["stopped_by"], data["cancelled"]) == ("max_failures", True)
    assert (data["completed"], data["left"]) == (20, 40)
    assert len(failed_rows(docora) & before) == 40
    assert "No further link is queued: max failures.\n" in result.stderr
    assert '"max_failures": "20%"' in docora.audit_entries()[0]["selection"]
    zero = ChangeOptions(in_flight=1, max_failures=MaxFailures(0))
    described = docora.actions().docora.describe_change("retry", None, zero)
    assert described.selection["max_failures"] == 0
    assert docora.waiting() == []


def test_ctrl_c_leaves_what_is_in_flight_and_the_same_command_finishes(docora: Docora) -> None:
    """With --front, each round stands at the head of the queue, in turns."""
    docora.add_links(20, apps=2)
    before = failed_rows(docora)
    other = docora.enqueue("other").id
    command = ("retry-all-failed", "--in-flight", "2", "--front", "--json")
    process = docora.start(*command)
    eventually(lambda: len(docora.waiting()) == 3, "two jobs")
    in_flight = in_turns(link.job_id for link in docora.links())[:2]
    assert docora.waiting() == [*in_flight, other]
    result = finish(process, signal.SIGINT).ended(130, says=STOPPING)
    assert (result.data["stopped_by"], result.data["left"]) == ("interrupted", 18)
    assert result.data["waited"]["unfinished"] == 2
    left = failed_rows(docora)
    assert (len(left), left <= before) == (18, True)
    docora.assert_sound()
    with other_worker(docora):
        again = docora.run(*command)
        eventually(lambda: docora.statuses() == {"synced": 20}, "all")
    assert (again.code, again.data["total"]) == (0, 18)


def test_a_share_of_failures_counts_from_twenty_results_on() -> None:
    number, share = MaxFailures(2), MaxFailures(20, is_percent=True)
    assert [number.is_exceeded(failed, 8) for failed in (2, 3)] == [False, True]
    # 4 of 19 are more than 20%, 4 of 20 are not.
    assert [share.is_exceeded(4, synced) for synced in (15, 16)] == [False, False]
    assert share.is_exceeded(5, 15)
    assert not MaxFailures(0, is_percent=True).is_exceeded(19, 0)
    assert MaxFailures(0).is_exceeded(1, 0)


# Beside passes of a scheduler: ours leaves its links alone, Docora's can't know


def start(docora: Docora) -> tuple[Process, str]:
    """A run with one link at a time, once it waits for the first result."""
    process = docora.start("retry-all-failed", "--in-flight", "1", "--json")
    eventually(lambda: docora.statuses().get("pending_snapshot") == 1, "a link in flight")
    return process, only_operation(docora)


def test_a_link_that_has_failed_again_is_left_too_and_a_rescan_is_not(docora: Docora) -> None:
    docora.add_links(3)
    first, second, third = docora.links()
    process, operation_id = start(docora)
    # A worker takes its job, which fails.
    end_job(docora, first.job_id, "HTTP 500")
    eventually(lambda: docora.waiting() == [second.job_id], "the second link")
    for options in (("--dry-run",), ()):
        result = docora.run("schedule", *options, "--json")
        assert result.data["left_to_operations"] == [{"operation_id": operation_id, "links": 2}]
        assert (result.data["total"], result.data["already_queued"]) == (1, 1)
        assert f"2 due links left to operation {operation_id}" in result.stderr
    docora.set_link(first, status="synced")
    rescan = docora.run("schedule", "--json")
    assert (rescan.data["queued"], rescan.data["already_queued"]) == (1, 1)
    assert docora.waiting() == [second.job_id, first.job_id]
    assert docora.statuses() == {"synced": 1, "pending_snapshot": 1, "failed": 1}
    assert third.job_id not in docora.waiting()
    assert finish(process, signal.SIGINT).code == 130


def test_a_link_that_it_has_left_alone_is_scheduled(docora: Docora) -> None:
    docora.add_links(3)
    first, second, third = docora.links()
    process, operation_id = start(docora)
    docora.set_link(second, status="pending_snapshot")
    end_job(docora, first.job_id, "HTTP 500")
    eventually(lambda: docora.waiting() == [third.job_id], "the third link")
    left = [{"operation_id": operation_id, "links": 1}]  # the first one, which has failed again
    assert docora.run("schedule", "--json").data["left_to_operations"] == left
    assert docora.waiting() == [third.job_id, second.job_id]
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130


def test_links_whose_jobs_wait_are_put_off_without_waiting_for_results(docora: Docora) -> None:
    docora.add_links(40)
    assert docora.run("retry-all-failed", "--yes").code == 0
    for link in docora.links():
        docora.set_link(link, status="failed")
    options = ChangeOptions(in_flight=2)
    with closing(retry_all_failed(docora.actions().docora, LinkChoice(), options)) as steps:
        before = sum(1 for _ in takewhile(lambda step: not step.result.put_to_work, steps))
    assert before == 2 + 40 / 2, "the plan, the start, and a step for each two links"


def test_when_a_run_is_killed_the_schedule_goes_on(docora: Docora) -> None:
    docora.add_links(4)
    process, operation_id = start(docora)
    process.kill()
    finish(process)
    left = docora.run("schedule", "--json")
    assert left.data["left_to_operations"] == [{"operation_id": operation_id, "links": 3}]
    key = part_key(operation_id, "selection")
    assert 0 < docora.redis.ttl(key) <= HEARD
    docora.redis.expire(key, 0)
    goes_on = docora.run("schedule", "--json")
    assert (goes_on.data["left_to_operations"], goes_on.data["queued"]) == ([], 3)
    docora.assert_sound()


def test_a_run_keeps_showing_that_it_lives(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_IDLE", 0)
    monkeypatch.setattr(operation_log, "_KEEP", 0)
    sleep_by(monkeypatch, lambda _: None)
    docora.add_links(4)
    first, second, *_ = docora.links()
    options = ChangeOptions(in_flight=1)
    with closing(retry_all_failed(docora.actions().docora, LinkChoice(), options)) as steps:
        while not docora.waiting():
            next(steps)
        parts = ("selection", "left_alone")
        keys = [part_key(only_operation(docora), part) for part in parts]
        docora.set_link(second, status="synced")
        end_job(docora, first.job_id, "HTTP 500")
        for size in (0, 1, 1):  # the selection is written once, and each link left alone once
            assert [docora.redis.strlen(key) for key in keys] == [4 * 16, size * 16]
            for key in keys:
                docora.redis.expire(key, 9)
            for _ in range(9):
                next(steps)
            assert min(map(docora.redis.ttl, keys)) > 9
        docora.redis.delete(*keys)  # as if Redis had been emptied
        for _ in range(9):
            next(steps)
        assert [docora.redis.strlen(key) for key in keys] == [4 * 16, 16]
    assert docora.redis.exists(*keys) == 0


def test_beside_docoras_own_scheduler_a_run_counts_what_was_taken_over(bullmq: Bullmq) -> None:
    docora = bullmq.docora
    docora.add_links(5)
    begun, go_on = Event(), Event()

    def work(_job_id: str) -> None:
        begun.set()
        go_on.wait(patience())

    options = ("--in-flight", "1", "--json")
    with bullmq.docora_at_work(work):
        process = docora.start("retry-all-failed", *options, env=bullmq.environment())
        await_line(process, "--in-flight holds back docora-ops only")
        assert begun.wait(patience())
        bullmq.schedule("failed")
        go_on.set()
        result = finish(process)
    assert (result.code, docora.statuses()) == (0, {"synced": 5}), result
    assert (result.data["reset"], result.data["taken_over"]) == (1, 4)
    assert "4 links had been queued or changed before, by a scheduler" in result.stderr
    assert docora.redis.keys("docora-ops:*selection") == []
