"""Jobs whose process is killed: their links are tried again or fail, and are never lost."""

import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
from rq.job import Job

from docora_ops.worker.recovery import LinkRecovery
from tests.support.delivery_checks import link_row
from tests.support.docora import Docora
from tests.support.git_over_http import gate_at
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.running_commands import await_locks
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import Running, has_live_job, running

OK, FAIL, KILL = "o", "f", "k"


class Story:
    """What befalls each try of each app: the letters of its name tell."""

    def __init__(self, snapshots: Snapshots) -> None:
        self.tries: Counter[str] = Counter()
        self.problems: list[str] = []
        self.worker: Running | None = None
        self._snapshots = snapshots
        snapshots.receiver.answer = self.answer

    def answer(self, request: Request) -> int:
        number = self.tries[request.app]
        self.tries[request.app] += 1
        self.problems += self._snapshots.docora.lost_links()
        self.problems += self._snapshots.docora.doubled_jobs()
        event = request.app[number]
        if event == KILL:
            assert self.worker is not None
            os.kill(self.worker.horse(), signal.SIGKILL)
        return 500 if event == FAIL else 200


def test_every_order_of_failures_and_kills_ends_well(snapshots: Snapshots) -> None:
    stories = [
        "".join(letters) + OK
        for length in range(4)
        for letters in product((FAIL, KILL), repeat=length)
    ]
    links = snapshots.add_links(stories)
    for link in links.values():
        snapshots.queue(link, max_retry_attempts=3, retry_base_delay_ms=0)
    story = Story(snapshots)
    with running(snapshots, "--burst", MAX_RETRY_ATTEMPTS="3") as story.worker:
        assert story.worker.end() == 0
    assert story.problems == []
    assert story.tries == {name: min(len(name), 3) for name in stories}
    for name, link in links.items():
        assert not has_live_job(snapshots.docora, link)
        status, retry_count, error = link_row(snapshots, link)
        if len(name) <= 3:
            assert (status, retry_count, error) == ("synced", 0, None)
            assert snapshots.received(name).files == {"a": b"1\n"}
        else:
            last = "was cut off" if name[2] == KILL else "HTTP 500 on created a"
            assert (status, retry_count) == ("failed", 3)
            assert last in str(error)


def job_of(docora: Docora, link: TestLink) -> Job:
    """A job that waits, with the arguments of the link."""
    job = docora.enqueue(link.job_id)
    job.kwargs = {"app_id": link.app_id, "repository_id": link.repository_id}
    return job


@pytest.mark.parametrize(
    ("status", "tries", "stays", "expected_tries"),
    [
        ("scanning", 0, False, 0),
        ("pending_snapshot", 2, True, 2),  # its verdict: one more
        ("failed", 2, True, 0),  # its verdict: no more
        ("synced", 0, True, 0),
    ],
)
def test_a_verdict_that_a_killed_job_has_written_stands(
    snapshots: Snapshots, status: str, tries: int, stays: bool, expected_tries: int
) -> None:
    link = snapshots.docora.add_link(status, retry_count=1, last_error="said before")
    job = job_of(snapshots.docora, link)
    job.retries_left = tries
    recovery = LinkRecovery(snapshots.settings, snapshots.docora.redis)
    recovery.count_killed_job(job, "it fell over")
    after = "pending_snapshot" if tries else "failed"
    assert link_row(snapshots, link) == (
        (status, 1, "said before")
        if stays
        else (after, 2, "the snapshot was cut off: it fell over")
    )
    assert job.retries_left == expected_tries
    # A link that is gone has no further tries.
    snapshots.docora.delete_link(link)
    job.retries_left = 3
    recovery.count_killed_job(job, "it fell over")
    assert job.retries_left == 0


def test_a_job_that_takes_too_long_fails_in_words_and_is_tried_again(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(
        {"a": "1\n"}, max_retry_attempts=3, retry_base_delay_ms=0, job_timeout=1
    )
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


def test_a_killed_job_is_judged_once_its_session_has_ended(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link = docora.add_link("scanning", retry_count=0, last_error=None)
    job = job_of(docora, link)
    job.retries_left = 2
    recovery = LinkRecovery(snapshots.settings, docora.redis)
    docora.hold_lock(link.job_id)
    with ThreadPoolExecutor(1) as thread:
        judged = thread.submit(recovery.count_killed_job, job, "it fell")
        try:
            await_locks(snapshots.docora)
            # What the job had sent before it was killed arrives now.
            docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
        finally:
            docora.connection.execute("SELECT pg_advisory_unlock_all()")
        judged.result()
    assert link_row(snapshots, link) == ("synced", 0, None)
