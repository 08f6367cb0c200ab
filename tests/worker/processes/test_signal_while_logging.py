"""A signal that comes while the worker writes a line of its log."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess

from tests.support.docora import COMMAND
from tests.support.proxy import PATIENCE, eventually
from tests.support.snapshots import Snapshots

PIPE_SIZE = 4096


def test_it_ends_the_worker_without_a_word_about_the_log(snapshots: Snapshots) -> None:
    """Its log is a pipe that is full, so that it can't go on writing."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    os.write(writer, b"." * PIPE_SIZE)
    environment = snapshots.docora.environment(**snapshots.environment())
    with subprocess.Popen([COMMAND, "worker"], env=environment, stderr=writer) as worker:
        os.close(writer)
        eventually(lambda: snapshots.docora.redis.smembers("rq:workers"), "a worker")
        eventually(lambda: is_asleep(worker.pid), "a worker that writes")
        worker.send_signal(signal.SIGTERM)
        with os.fdopen(reader, encoding="utf-8") as log:
            said = log.read()
        assert worker.wait(PATIENCE) == 0
    assert "warm shut down requested" in said
    assert "Traceback" not in said


def is_asleep(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan", encoding="ascii") as file:  # noqa: PTH123
        return "pipe" in file.read()
