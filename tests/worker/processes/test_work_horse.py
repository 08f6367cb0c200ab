"""The process of a job runs the jobs that wait behind it, too, as long as all is well."""

import os
import signal
from collections.abc import Callable
from contextlib import closing

import pytest

from docora_ops.queue import connect
from docora_ops.worker import snapshot_job
from tests.support.proxy import eventually
from tests.support.receiver import Request
from tests.support.running_commands import terminate_sessions
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

APPS = ["One", "Two", "Three", "Four"]


def horses_of(snapshots: Snapshots, answer: Callable[[str, int], int]) -> list[int]:
    """The process by which each app was sent its file; `answer` decides about the request."""
    pids: dict[str, int] = {}

    def note(request: Request) -> int:
        pids[request.app] = worker.horse()
        return answer(request.app, pids[request.app])

    snapshots.receiver.answer = note
    for link in snapshots.add_links(APPS).values():
        snapshots.queue(link, max_retry_attempts=1)
    with running(snapshots) as worker:
        eventually(lambda: snapshots.docora.waiting() == [], "the last job")
        eventually(lambda: worker.horses == [], "the horse's end")
    assert list(pids) == APPS
    return list(pids.values())


def test_jobs_that_wait_run_in_one_process_which_ends_when_none_waits(snapshots: Snapshots) -> None:
    holders: list[list[int]] = []

    def answer(_app: str, _pid: int) -> int:
        rows = snapshots.docora.connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        holders.append([row["pid"] for row in rows])
        return 200

    assert len(set(horses_of(snapshots, answer))) == 1
    # They use one session, which each leaves without a lock.
    assert holders == [holders[0]] * 4
    assert len(holders[0]) == 1
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

    pids = horses_of(snapshots, answer)
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert snapshots.docora.statuses() == {"synced": 3, "failed": 1}
    assert snapshots.docora.lost_links() == []


def test_a_session_that_is_ended_between_two_jobs_costs_none(snapshots: Snapshots) -> None:
    with connect(snapshots.settings) as client:
        resources = snapshot_job.Resources(snapshots.settings, client)
        first = resources.take_session()
        resources.leave(first, succeeded=True)
        assert resources.take_session() is first
        resources.leave(first, succeeded=True)
        assert terminate_sessions(snapshots.docora) == 1
        with closing(resources.take_session()) as second:
            assert second.rows("SELECT 1")
