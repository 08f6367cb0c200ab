"""Deliveries are recorded one by one: what an app has taken is not sent again."""

import os
import signal

import pytest
from rq.job import JobStatus

from docora_ops.demo.receiver import Request
from tests.support.delivery_checks import assert_in_sync, events, link_row
from tests.support.snapshots import Files, Snapshots
from tests.support.worker_processes import children_of

FILES: Files = {f"{i:04}.txt": f"{i}\n" for i in range(1, 1001)}


@pytest.mark.parametrize("is_killed", [False, True], ids=["fails", "is killed"])
def test_a_job_that_ends_at_the_701st_of_1000_files_sends_300_when_it_is_retried(
    snapshots: Snapshots, *, is_killed: bool
) -> None:
    link, upstream = snapshots.add_queued(FILES, max_retry_attempts=2, retry_base_delay_ms=0)
    seen = []
    pid = 0

    def answer(request: Request) -> int:
        number = len(snapshots.received().requests)
        if number == 700 and is_killed:
            [horse] = children_of(pid)
            os.kill(horse, signal.SIGKILL)
        if number == 701:
            seen.append((link_row(snapshots, link), len(snapshots.deliveries(link))))
        return 500 if number == 700 else 200

    snapshots.receiver.answer = answer
    with snapshots.start_worker("--burst") as worker:
        pid = worker.pid
        _, log = worker.communicate(timeout=60)
    assert worker.returncode == 0
    reason = "its process was killed (wait status 9)" if is_killed else "HTTP 500 on created 0701"
    assert reason in log
    sent = [path for _, path in events(snapshots)]
    assert sent[:701] == sorted(map(str, FILES))[:701]
    assert sent[701:] == sorted(map(str, FILES))[700:]
    [((status, retry_count, error), recorded)] = seen
    assert (status, retry_count) == ("scanning", 1)
    if not is_killed:
        assert (error, recorded) == ("HTTP 500 on created 0701.txt", 700)
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert_in_sync(snapshots, link, upstream)
