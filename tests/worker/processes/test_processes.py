"""Worker processes: signals, children, parents, and retries that wait."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import cast

import pytest

from tests.support.docora import COMMAND, QUEUE
from tests.support.git_over_http import gate_at
from tests.support.proxy import PATIENCE, eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import children_of, held_worker, running, running_program

PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def may_unshare() -> bool:
    """Whether this user may start a process as PID 1."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*PID_1, "true"], capture_output=True, check=False).returncode == 0


def add_link(snapshots: Snapshots, **retry: int) -> TestLink:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"}, **retry)
    return link


def names(snapshots: Snapshots) -> set[str]:
    """Workers on RQ's screens."""
    keys = cast("set[bytes]", snapshots.docora.redis.smembers(f"rq:workers:{QUEUE}"))
    return {key.decode().removeprefix("rq:worker:") for key in keys}


@pytest.mark.parametrize(
    ("number", "arguments", "setting", "count"),
    [
        pytest.param(signal.SIGTERM, (), "1", 1, id="TERM"),
        pytest.param(signal.SIGINT, ("--concurrency", "2"), "1", 2, id="Ctrl-C, to all"),
        pytest.param(signal.SIGTERM, (), None, 5, id="TERM to a parent of five"),
    ],
)
def test_a_signal_ends_it_when_the_job_in_hand_is_done(
    snapshots: Snapshots,
    number: signal.Signals,
    arguments: tuple[str, ...],
    setting: str | None,
    count: int,
) -> None:
    link = add_link(snapshots)
    with held_worker(snapshots, *arguments, SCAN_CONCURRENCY=setting) as (gate, worker):
        worker.await_ready(count)
        assert len(names(snapshots)) == count
        if number == signal.SIGINT:
            os.killpg(worker.pid, number)
        else:
            worker.signal(number)
        worker.await_line("told to end", count)
        eventually(lambda: len(names(snapshots)) == 1, "the end of who is idle")
        snapshots.docora.enqueue("app_1-repo_1")
        gate.release()
        assert worker.end() == 0
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert snapshots.docora.status(link) == "synced"
    assert sorted(snapshots.received().files) == ["a", "b"]
    assert snapshots.docora.waiting() == ["app_1-repo_1"]
    assert names(snapshots) == set()


@pytest.mark.slow
def test_a_child_that_is_killed_is_replaced(snapshots: Snapshots) -> None:
    with running(snapshots, "--concurrency", "2", "--name", "pair") as worker:
        worker.await_ready(2)
        without_name = signal.SIGRTMIN + 1
        for number, deadly in ((3, signal.SIGKILL), (4, without_name)):
            eventually(lambda: len(worker.children) == 2, "two children")
            first = min(worker.children)
            os.kill(first, deadly)
            worker.await_ready(number)
            assert first not in worker.children
        # They still work, both of them.
        barrier = threading.Barrier(2, timeout=PATIENCE)
        snapshots.receiver.answer = lambda _: barrier.wait() * 0 + 200
        for link in snapshots.add_links(["One", "Two"]).values():
            snapshots.queue(link)
        eventually(lambda: snapshots.docora.statuses() == {"synced": 2}, "two snapshots")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


@pytest.mark.skipif(not may_unshare(), reason="no other PID namespace for this user")
def test_a_worker_that_is_pid_1_outlives_the_process_of_a_job_and_its_orphans(
    snapshots: Snapshots,
) -> None:
    link = add_link(snapshots, retry_base_delay_ms=0)
    command = [*PID_1, str(COMMAND), "worker", "--concurrency", "1"]
    with gate_at(snapshots.receiver, "b") as gate, running_program(command, snapshots) as worker:
        gate.wait()
        horse = worker.horse()
        gits = children_of(horse)
        assert gits, "the git that the job reads from"
        os.kill(horse, signal.SIGKILL)
        gate.release()
        eventually(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in gits),
            "the end of the orphans, zombies too",
        )
        eventually(lambda: snapshots.docora.status(link) == "synced", "another try")
        [first] = children_of(worker.pid)
        os.kill(first, signal.SIGTERM)
        assert worker.end() == 0


def test_children_finish_their_job_and_end_when_their_parent_is_killed(
    snapshots: Snapshots,
) -> None:
    link = add_link(snapshots)
    with held_worker(snapshots, "--concurrency", "2") as (gate, worker):
        worker.await_ready(2)
        worker.signal(signal.SIGKILL)
        worker.await_line("its parent was killed")
        assert snapshots.docora.status(link) == "scanning"
        snapshots.docora.enqueue("app_1-repo_1")
        gate.release()
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert snapshots.docora.waiting() == ["app_1-repo_1"]
    assert worker.log.count("its parent was killed") == 2
    assert snapshots.docora.status(link) == "synced"
    assert names(snapshots) == set()


@pytest.mark.slow
def test_under_nohup_workers_go_on_after_a_hang_up(snapshots: Snapshots) -> None:
    command = ["nohup", str(COMMAND), "worker", "--concurrency", "2"]
    with running_program(command, snapshots) as worker:
        worker.await_ready(2)
        os.killpg(worker.pid, signal.SIGHUP)
        link = add_link(snapshots)
        eventually(lambda: snapshots.docora.status(link) == "synced", "a snapshot")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
