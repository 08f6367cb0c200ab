"""A worker of Docora's own that is started beside a running one: ours takes no job meanwhile."""

import signal

import pytest

from docora_ops.queue import connect
from docora_ops.worker import rq_worker
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.bullmq import Bullmq
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import await_waiting_worker, running

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
