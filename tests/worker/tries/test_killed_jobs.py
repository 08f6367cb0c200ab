"""Jobs whose process is killed: their links are tried again or fail, and are never lost."""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import product

import pytest
from rq.command import send_stop_job_command
from rq.job import JobStatus

from docora_ops.demo.receiver import Request
from docora_ops.worker.recovery import LinkRecovery, Tries
from tests.support.git_over_http import gate_at
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import (
    Running,
    await_waiting_session,
    has_live_job,
    hold_row,
    running,
)

OK, FAIL, KILL = "o", "f", "k"


def add_apps(snapshots: Snapshots, names: list[str]) -> dict[str, TestLink]:
    """Links of as many apps to one repository with one file."""
    upstream = snapshots.add_upstream()
    upstream.commit({"a": "1\n"})
    repository = snapshots.add_repository(upstream)
    return {name: snapshots.link(snapshots.add_app(name), repository) for name in names}


class Story:
    """What befalls each try of each app: the letters of its name tell."""

    def __init__(self, snapshots: Snapshots, *, always: str = OK) -> None:
        self.tries: Counter[str] = Counter()
        self.problems: list[str] = []
        self.worker: Running | None = None
        self._snapshots = snapshots
        self._always = always
        snapshots.receiver.answer = self.answer

    def answer(self, request: Request) -> int:
        number = self.tries[request.app]
        self.tries[request.app] += 1
        self.problems += self._snapshots.docora.lost_links()
        self.problems += self._snapshots.docora.doubled_jobs()
        letters = "" if self._always != OK else request.app
        event = letters[number] if number < len(letters) else self._always
        if event == KILL:
            assert self.worker is not None
            os.kill(self.worker.horse(), signal.SIGKILL)
        return 500 if event == FAIL else 200


def assert_settled(snapshots: Snapshots, link: TestLink) -> None:
    row = snapshots.docora.row(link)
    expected = {"synced": False, "failed": False, "pending_snapshot": True}
    assert has_live_job(snapshots.docora, link) is expected[row["status"]]


def test_every_order_of_failures_and_kills_ends_well(snapshots: Snapshots) -> None:
    failures = [
        "".join(letters) for length in range(4) for letters in product((FAIL, KILL), repeat=length)
    ]
    links = add_apps(snapshots, [letters + OK for letters in failures])
    for link in links.values():
        snapshots.queue(link, max_retry_attempts=3, retry_base_delay_ms=0)
    story = Story(snapshots)
    with running(snapshots, "--burst", MAX_RETRY_ATTEMPTS="3") as worker:
        story.worker = worker
        assert worker.end() == 0
    assert story.problems == []
    for name, link in links.items():
        row = snapshots.docora.row(link)
        assert_settled(snapshots, link)
        if len(name) <= 3:
            assert (row["status"], row["retry_count"], row["last_error"]) == ("synced", 0, None)
            assert snapshots.received(name).files == {"a": b"1\n"}
        else:
            last = "was cut off" if name[2] == KILL else "HTTP 500 on created a"
            assert (row["status"], row["retry_count"]) == ("failed", 3)
            assert last in row["last_error"]
        assert story.tries[name] == min(len(name), 3)


@pytest.mark.parametrize(("tries", "attempts"), [(2, 4), (4, 2)])
def test_the_smaller_of_both_counts_ends_it(
    snapshots: Snapshots, tries: int, attempts: int
) -> None:
    names = ["".join(letters) for letters in product((FAIL, KILL), repeat=2)]
    links = add_apps(snapshots, names)
    for link in links.values():
        snapshots.queue(link, max_retry_attempts=tries, retry_base_delay_ms=0)
    story = Story(snapshots)
    with running(snapshots, "--burst", MAX_RETRY_ATTEMPTS=str(attempts)) as worker:
        story.worker = worker
        assert worker.end() == 0
    assert story.problems == []
    for name, link in links.items():
        row = snapshots.docora.row(link)
        assert (row["status"], row["retry_count"]) == ("failed", 2)
        assert_settled(snapshots, link)
        assert story.tries[name] == 2


def test_a_delayed_retry_of_a_killed_job_waits_its_time(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    snapshots.queue(link, retry_base_delay_ms=60_000)
    with running(snapshots, "--burst") as worker:
        story = Story(snapshots, always=KILL)
        story.worker = worker
        assert worker.end() == 0
    row = snapshots.docora.row(link)
    assert (row["status"], row["retry_count"]) == ("pending_snapshot", 1)
    assert "the snapshot was cut off: its process was killed" in row["last_error"]
    assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED
    assert_settled(snapshots, link)


@pytest.mark.parametrize(("tries", "expected"), [(2, ("synced", 0)), (1, ("failed", 1))])
def test_a_job_that_is_killed_before_it_has_begun_is_counted_only_as_the_last(
    snapshots: Snapshots, tries: int, expected: tuple[str, int]
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    snapshots.queue(link, max_retry_attempts=tries, retry_base_delay_ms=0)
    with hold_row(snapshots) as producer, running(snapshots, "--burst") as worker:
        await_waiting_session(snapshots)
        os.kill(worker.horse(), signal.SIGKILL)
        worker.await_line("Work horse killed")
        producer.commit()
        assert worker.end() == 0
    row = snapshots.docora.row(link)
    assert (row["status"], row["retry_count"]) == expected
    assert_settled(snapshots, link)


@pytest.mark.parametrize(
    ("status", "tries", "stays", "expected_tries"),
    [
        ("scanning", 2, False, 2),
        ("scanning", 0, False, 0),
        ("pending_snapshot", 2, True, 2),  # its verdict: one more
        ("pending_snapshot", 0, False, 0),
        ("failed", 2, True, 0),  # its verdict: no more
        ("synced", 0, True, 0),
    ],
)
def test_a_verdict_that_a_killed_job_has_written_stands(
    snapshots: Snapshots, status: str, tries: int, stays: bool, expected_tries: int
) -> None:
    link = snapshots.docora.add_link(status, retry_count=1, last_error="said before")
    job = snapshots.docora.enqueue(link.job_id)
    job.retries_left = tries
    recovery = LinkRecovery(snapshots.settings, snapshots.docora.redis)
    recovery.count_killed_job(link.app_id, link.repository_id, Tries(job), reason="it fell over")
    row = snapshots.docora.row(link)
    after = status if stays else "pending_snapshot" if tries else "failed"
    assert (row["status"], row["retry_count"]) == (after, 1 if stays else 2)
    assert row["last_error"] == (
        "said before" if stays else "the snapshot was cut off: it fell over"
    )
    assert job.retries_left == expected_tries


def test_the_killed_job_of_a_link_that_is_gone_is_not_tried_again(snapshots: Snapshots) -> None:
    link = snapshots.docora.add_link()
    job = snapshots.docora.enqueue(link.job_id)
    job.retries_left = 3
    snapshots.docora.connection.execute("DELETE FROM app_repositories")
    recovery = LinkRecovery(snapshots.settings, snapshots.docora.redis)
    recovery.count_killed_job(link.app_id, link.repository_id, Tries(job), reason="it fell over")
    assert job.retries_left == 0


def test_a_job_that_an_operator_stops_fails_for_good(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.queue(link, max_retry_attempts=3, retry_base_delay_ms=0)
    with gate_at(snapshots.receiver, "b") as gate, running(snapshots, "--burst") as worker:
        gate.wait()
        send_stop_job_command(snapshots.docora.redis, link.job_id)
        assert worker.end() == 0
    row = snapshots.docora.row(link)
    assert (row["status"], row["retry_count"]) == ("failed", 1)
    assert row["last_error"] == "the snapshot was cut off: it was stopped by an operator"
    assert snapshots.docora.job(link).get_status() is JobStatus.STOPPED
    assert_settled(snapshots, link)
    # And can be retried.
    snapshots.docora.actions().retry(link)
    assert snapshots.work().code == 0
    assert snapshots.docora.status(link) == "synced"
    assert sorted(snapshots.received().files) == ["a", "b"]


def test_a_job_that_takes_too_long_fails_in_words_and_is_tried_again(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    snapshots.queue(link, max_retry_attempts=3, retry_base_delay_ms=0, job_timeout=1)
    errors: list[str | None] = []
    with gate_at(snapshots.receiver) as gate:
        held = snapshots.receiver.answer

        def answer(request: Request) -> int:
            row = snapshots.docora.row(link)
            errors.append(row["last_error"])
            if len(errors) == 2:
                assert row["retry_count"] == 1
                gate.release()
            return held(request)

        snapshots.receiver.answer = answer
        with running(snapshots, "--burst", DOCORA_OPS_JOB_TIMEOUT="1") as worker:
            assert worker.end() == 0
    assert errors == [None, "the snapshot took longer than 1 s"]
    assert snapshots.docora.status(link) == "synced"
