"""Deliveries are recorded one by one: what an app has taken is not sent again."""

from __future__ import annotations

import os
import signal

from rq.job import JobStatus

from docora_ops.demo.receiver import Request
from tests.support.delivery_checks import assert_in_sync, events, link_row
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import children_of

FILES: dict[str | bytes, str | bytes | None] = {f"{i:04}.txt": f"{i}\n" for i in range(1, 1001)}
AT_ONCE = {"max_retry_attempts": 2, "retry_base_delay_ms": 0}


def test_a_job_that_fails_at_the_701st_of_1000_files_sends_300_when_it_is_retried(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link(FILES)
    snapshots.queue(link, **AT_ONCE)
    seen = []

    def answer(request: Request) -> int:
        if len(snapshots.received().requests) == 700:
            assert request.path == "0701.txt"
            return 500
        if len(snapshots.received().requests) == 701:
            seen.append((link_row(snapshots, link), len(snapshots.deliveries(link))))
        return 200

    snapshots.receiver.answer = answer
    snapshots.work_here()
    sent = [path for _, path in events(snapshots)]
    assert sent[:701] == sorted(map(str, FILES))[:701]
    assert sent[701:] == sorted(map(str, FILES))[700:]
    assert len(sent) == 701 + 300
    assert seen == [(("scanning", 1, "HTTP 500 on created 0701.txt"), 700)]
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert_in_sync(snapshots, link, upstream)


def test_a_job_that_is_killed_at_the_701st_of_1000_files_sends_300_when_it_is_retried(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link(FILES)
    snapshots.queue(link, **AT_ONCE)
    pid = 0

    def answer(request: Request) -> int:
        if len(snapshots.received().requests) == 700:
            [horse] = children_of(pid)
            os.kill(horse, signal.SIGKILL)
        return 200

    snapshots.receiver.answer = answer
    with snapshots.start_worker("--burst") as worker:
        pid = worker.pid
        _, log = worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert "its process was killed (wait status 9)" in log
    sent = [path for _, path in events(snapshots)]
    assert sent[:701] == sorted(map(str, FILES))[:701]
    assert sent[701:] == sorted(map(str, FILES))[700:]
    assert snapshots.docora.job(link).get_status() is JobStatus.FINISHED
    assert_in_sync(snapshots, link, upstream)
