"""Workers and the processes above them: PID 1, and parents that are killed or hung up."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.docora import COMMAND
from tests.support.git_over_http import Gate, gate_at
from tests.support.proxy import PATIENCE, Fault, Proxy, eventually
from tests.support.rows import TestLink
from tests.support.signal_in_destructor import TRIGGER, dying_on_trigger
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import (
    Running,
    await_waiting_worker,
    children_of,
    held_worker,
    running,
    running_program,
)

PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
PAST_DOUBLED = 1.2
"""Seconds after which RQ takes a second signal for one: before, for the first one's double."""


def may_unshare() -> bool:
    """Whether this user may start a process as PID 1."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*PID_1, "true"], capture_output=True, check=False).returncode == 0


def add_link(snapshots: Snapshots) -> TestLink:
    link, _ = snapshots.add_queued({"a": "1\n", "b": "2\n"}, retry_base_delay_ms=0)
    return link


@contextmanager
def two_workers(snapshots: Snapshots) -> Iterator[tuple[TestLink, Gate, Running]]:
    """A parent of two, one of which waits within a job for the answer of the app."""
    link = add_link(snapshots)
    with held_worker(snapshots, "--concurrency", "2") as (gate, worker):
        worker.await_ready(2)
        yield link, gate, worker


@pytest.mark.skipif(not may_unshare(), reason="no other PID namespace for this user")
@pytest.mark.parametrize("concurrency", ["1", "2"])
def test_a_worker_that_is_pid_1_outlives_the_process_of_a_job_and_its_orphans(
    snapshots: Snapshots, concurrency: str
) -> None:
    link = add_link(snapshots)
    command = [*PID_1, str(COMMAND), "worker", "--concurrency", concurrency]
    with gate_at(snapshots.receiver, "b") as gate, running_program(command, snapshots) as worker:
        gate.wait()
        horse = worker.horse()
        gits = children_of(horse)
        assert gits, "the git that the job reads from"
        os.kill(horse, signal.SIGKILL)
        gate.release()
        eventually(lambda: not any(map(exists, gits)), "the end of the orphans, zombies too")
        eventually(lambda: snapshots.docora.status(link) == "synced", "another try")
        [first] = children_of(worker.pid)
        os.kill(first, signal.SIGTERM)
        assert worker.end() == 0


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("is_ending", [False, True])
def test_children_finish_their_job_and_end_when_their_parent_is_killed(
    snapshots: Snapshots, *, is_ending: bool
) -> None:
    with two_workers(snapshots) as (link, gate, worker):
        worker.signal(signal.SIGTERM if is_ending else signal.SIGKILL)
        worker.await_line("told to end", 2)
        if is_ending:
            time.sleep(PAST_DOUBLED)
            worker.signal(signal.SIGKILL)
            eventually(lambda: worker.process.poll() is not None, "the end of the parent")
            time.sleep(0.3)
        assert snapshots.docora.status(link) == "scanning"
        gate.release()
        eventually(lambda: worker.processes == [], "the end of all processes")
    assert "its job was killed" not in worker.log
    assert snapshots.docora.status(link) == "synced"
    assert snapshots.docora.redis.smembers("rq:workers") == set()


FAMILY = """
import os, signal, sys, time
from docora_ops.worker.process import serve_with_children

ready, tell = os.pipe()

def run(number):
    if number == 2:
        os.read(ready, 1)
        return 5
    told = []
    signal.signal(signal.SIGTERM, lambda *_: (told.append(1), print(len(told), flush=True)))
    os.write(tell, b"x")
    end = time.monotonic() + 60
    while time.monotonic() < end and len(told) < 2:
        time.sleep(0.1)
    return 0

sys.exit(serve_with_children(2, run))
"""


def test_after_an_error_in_one_child_only_a_second_signal_kills_the_jobs_of_the_others() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "1\n"
        parent.send_signal(signal.SIGTERM)
        assert select.select([parent.stdout], [], [], 0.5)[0] == []
        parent.send_signal(signal.SIGTERM)
        assert parent.stdout.readline() == "2\n"
        assert parent.wait(PATIENCE) == 5


def test_under_nohup_workers_go_on_after_a_hang_up(snapshots: Snapshots) -> None:
    command = ["nohup", str(COMMAND), "worker", "--concurrency", "2"]
    with running_program(command, snapshots) as worker:
        worker.await_ready(2)
        os.killpg(worker.pid, signal.SIGHUP)
        link = add_link(snapshots)
        eventually(lambda: snapshots.docora.status(link) == "synced", "a snapshot")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


def test_a_worker_that_is_told_to_end_leaves_a_name_that_is_not_its_own(
    snapshots: Snapshots,
) -> None:
    docora = snapshots.docora
    docora.add_worker("mine")
    with Proxy.before_redis(docora.redis_access.worker) as proxy:
        look = proxy.plan(b"rq:worker:mine\r\n", Fault.HOLD_REQUEST)
        with running(snapshots, "--name", "mine", REDIS_URL=proxy.url) as worker:
            look.wait()
            worker.signal(signal.SIGTERM)
            look.release()
            worker.end()
    assert docora.redis.smembers("rq:workers") == {b"rq:worker:mine"}
    assert docora.redis.hgetall("rq:worker:mine") == {b"birth": b"now"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_comes_in_a_destructor_ends_an_idle_worker(
    snapshots: Snapshots, tmp_path: Path, number: signal.Signals
) -> None:
    with running(snapshots, **dying_on_trigger(tmp_path, number)) as worker:
        await_waiting_worker(snapshots.docora)
        worker.signal(TRIGGER)
        assert worker.end() == 0
    assert "ignored" not in worker.log
    assert snapshots.docora.redis.smembers("rq:workers") == set()
