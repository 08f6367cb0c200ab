"""Workers that take no job: beside one of Docora's own, or on a host whose clock is wrong."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from rq.job import JobStatus

from docora_ops.queue import connect
from docora_ops.worker import rq_worker
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.bullmq import Bullmq
from tests.support.clocks import clock_ahead, clock_in, with_wrong_clock
from tests.support.docora import QUEUE
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import await_waiting_worker, held_worker, running

CAME = "takes no job: a BullMQ worker of Docora was started"
WENT = "takes jobs again"


def nothing(_job_id: str) -> None:
    """Ends a job of BullMQ."""


def test_an_idle_worker_takes_no_job_until_it_is_alone_again(
    snapshots: Snapshots, bullmq: Bullmq
) -> None:
    docora = snapshots.docora
    with running(snapshots, "--name", "w") as worker:
        await_waiting_worker(docora)
        with bullmq.worker(nothing):
            worker.await_line(CAME)
            link, _ = snapshots.add_queued({"a": "1\n"})
            [shown] = docora.run("queue", "--json").data["workers"]
            assert (shown["state"], shown["silent_seconds"]) == ("suspended", None)
            assert docora.waiting() == [link.job_id]
        worker.await_line(WENT)
        eventually(lambda: docora.status(link) == "synced", "the job")
        with bullmq.worker(nothing):
            worker.await_line(CAME, 2)
            worker.signal(signal.SIGTERM)
            assert worker.end() == 0
    assert (worker.log.count(CAME), worker.log.count(WENT)) == (2, 1)


def test_a_link_that_docoras_worker_scans_is_not_taken_for_left_behind(
    snapshots: Snapshots, bullmq: Bullmq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rq_worker, "_LOOK_INTERVAL", 0)
    docora = snapshots.docora
    worker = SnapshotWorker(snapshots.settings, connect(snapshots.settings), "w")
    link = docora.add_link("scanning", retry_count=0)
    with bullmq.worker(nothing):
        worker.run_maintenance_tasks()
        assert docora.status(link) == "scanning"
        assert docora.waiting() == []
    worker.run_maintenance_tasks()
    assert docora.status(link) == "pending_snapshot"
    assert docora.waiting() == [link.job_id]


HOST = socket.gethostname()


@contextmanager
def moments_are_right(snapshots: Snapshots) -> Iterator[None]:
    """What the app is sent within the block bears the right time, to 5 s."""
    began = time.time()
    before = len(snapshots.received("Acme").requests)
    yield
    requests = snapshots.received("Acme").requests[before:]
    assert requests
    for request in requests:
        in_body = datetime.fromisoformat(request.json["timestamp"]).timestamp()
        for moment in (int(request.headers["X-Docora-Timestamp"]), in_body):
            assert began - 5 <= moment <= time.time() + 5


@with_wrong_clock
def test_a_worker_takes_no_job_until_its_clock_is_right(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    docora = snapshots.docora
    clock = tmp_path / "clock"
    clock.write_text("-600")
    link, _ = snapshots.add_queued({"a": "1"})

    def shown() -> dict[str, Any]:
        [worker] = docora.run("queue", "--json").data["workers"]
        return cast("dict[str, Any]", worker)

    with running(snapshots, "--name", "w", **clock_in(clock)) as worker:
        behind = f"the clock of {HOST} is 600 s behind Redis's (set both by NTP"
        worker.await_line(f"worker w: takes no job: {behind}")
        eventually(lambda: shown()["state"] == "suspended", "a worker that takes no job")
        assert abs(shown()["clock_ahead_seconds"] + 600) <= 1
        assert shown()["silent_seconds"] is None
        at = datetime.fromisoformat(shown()["last_heartbeat_at"])
        assert abs(datetime.now(UTC) - at) < timedelta(seconds=60)
        assert docora.waiting() == [link.job_id]
        with moments_are_right(snapshots):
            clock.write_text("+0")
            eventually(lambda: docora.status(link) == "synced", "the end of the job")
    assert worker.log.count("takes no job") == worker.log.count("takes jobs again") == 1
    assert docora.row(link)["retry_count"] == 0


@with_wrong_clock
def test_a_burst_with_a_wrong_clock_ends_with_an_error_and_touches_nothing(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    busy = docora.add_link("scanning")
    docora.start_job(busy.job_id)
    link, _ = snapshots.add_queued({"a": "1"})
    with running(snapshots, "--burst", **clock_ahead(600)) as worker:
        assert worker.end() == 4
    assert f"Error: the clock of {HOST} is 600 s ahead of Redis's\n" in worker.log
    assert "NTP" in worker.log
    assert docora.waiting() == [link.job_id]
    assert (docora.status(link), docora.status(busy)) == ("pending_snapshot", "scanning")
    assert docora.job(busy).get_status() is JobStatus.STARTED
    assert docora.redis.zcard(f"rq:wip:{QUEUE}") == 1


@with_wrong_clock
def test_a_clock_that_jumps_during_a_job_changes_nothing_for_the_app(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    link, _ = snapshots.add_queued({"a": "1", "b": "2", "c": "3"})
    with moments_are_right(snapshots), held_worker(snapshots, **clock_in(clock)) as (gate, worker):
        clock.write_text("+600")
        gate.release()
        worker.await_line("takes no job: the clock")
        assert snapshots.docora.status(link) == "synced"
