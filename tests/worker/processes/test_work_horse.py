"""The process of a job runs the jobs that wait behind it, too, as long as all is well."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from rq import Queue
from rq.job import Job

from docora_ops.queue import connect
from docora_ops.worker import snapshot_job
from docora_ops.worker.rq_worker import SnapshotWorker
from tests.support.proxy import eventually
from tests.support.receiver import Request
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import Running, running

APPS = ["One", "Two", "Three", "Four"]


class Horses:
    """Notes by which process each app is sent its file; `answer` decides about the request."""

    def __init__(self, snapshots: Snapshots, answer: Callable[[str, int], int]) -> None:
        self.pids: dict[str, int] = {}
        self.worker: Running | None = None
        self._answer = answer
        snapshots.receiver.answer = self._note
        for link in snapshots.add_links(APPS).values():
            snapshots.queue(link, max_retry_attempts=1)

    def _note(self, request: Request) -> int:
        assert self.worker is not None
        self.pids[request.app] = self.worker.horse()
        return self._answer(request.app, self.pids[request.app])

    def watch(self, snapshots: Snapshots, *arguments: str) -> None:
        """Runs a worker until the queue is empty."""
        with running(snapshots, *arguments) as self.worker:
            eventually(lambda: snapshots.docora.waiting() == [], "the last job")
            eventually(lambda: self.worker is None or self.worker.horses == [], "the horse's end")


def test_jobs_that_wait_run_in_one_process_which_ends_when_none_waits(snapshots: Snapshots) -> None:
    holders: list[list[int]] = []

    def answer(_app: str, _pid: int) -> int:
        rows = snapshots.docora.connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        holders.append([row["pid"] for row in rows])
        return 200

    horses = Horses(snapshots, answer)
    horses.watch(snapshots)
    assert list(horses.pids) == APPS
    # They use one session, which each leaves without a lock.
    assert holders == [holders[0]] * 4
    assert len(holders[0]) == 1
    assert len(set(horses.pids.values())) == 1
    assert snapshots.docora.statuses() == {"synced": 4}


@pytest.mark.parametrize("is_killed", [False, True])
def test_after_a_job_that_failed_or_was_killed_the_next_one_has_a_new_process(
    snapshots: Snapshots, is_killed: bool
) -> None:
    def answer(app: str, pid: int) -> int:
        if app != "Two":
            return 200
        if is_killed:
            os.kill(pid, signal.SIGKILL)
        return 500

    horses = Horses(snapshots, answer)
    horses.watch(snapshots)
    pids = [horses.pids[app] for app in APPS]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert snapshots.docora.statuses() == {"synced": 3, "failed": 1}
    assert snapshots.docora.lost_links() == []


class Noting(SnapshotWorker):
    """Notes the process of each job; `happen` befalls the one that waits for the second job."""

    happen: Callable[[int], object] = staticmethod(lambda _pid: None)

    def __init__(self, snapshots: Snapshots) -> None:
        client = connect(snapshots.settings)
        snapshot_job.use_settings(snapshots.settings, client)
        super().__init__(snapshots.settings, client, "worker-1")
        self.pids: list[int] = []

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        if len(self.pids) == 1:
            self.happen(self.pids[0])
        super().fork_work_horse(job, queue)
        self.pids.append(self.horse_pid)


@pytest.fixture
def noting(snapshots: Snapshots) -> Iterator[Noting]:
    """A worker in this process, and four jobs that wait."""
    for link in snapshots.add_links(APPS).values():
        snapshots.queue(link, max_retry_attempts=1)
    yield Noting(snapshots)
    assert snapshots.docora.statuses() == {"synced": 4}
    snapshot_job.use_settings(snapshots.settings)


def test_a_session_that_is_ended_between_two_jobs_costs_none(
    noting: Noting, snapshots: Snapshots
) -> None:
    ended: list[int] = []

    def end_sessions(_pid: int) -> None:
        found = snapshots.docora.connection.execute(
            "SELECT pg_terminate_backend(pid, 10000), pid FROM pg_stat_activity WHERE"
            " datname = current_database() AND application_name = 'docora-ops' AND state = 'idle'"
        ).fetchall()
        ended.extend(row["pid"] for row in found)

    noting.happen = end_sessions
    noting.run_jobs(burst=True)
    assert ended
    assert len(set(noting.pids)) == 1, "no job has failed"
