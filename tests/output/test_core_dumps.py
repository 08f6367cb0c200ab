"""What a process had in memory when it crashed, its secrets too, is written to no core dump."""

import os
import resource
import subprocess
from pathlib import Path
from signal import SIGABRT

import pytest

from tests.support.docora import Docora
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import held_worker


def abort(pid: int) -> None:
    """Crashes the process, with all room for a core dump."""
    _, most = resource.prlimit(pid, resource.RLIMIT_CORE)
    resource.prlimit(pid, resource.RLIMIT_CORE, (most, most))
    os.kill(pid, SIGABRT)


def leaves_a_core_dump(process: subprocess.Popen[str]) -> bool:
    abort(process.pid)
    _, status = os.waitpid(process.pid, 0)
    assert os.WTERMSIG(status) == SIGABRT
    return os.WCOREDUMP(status)


@pytest.fixture(autouse=True)
def _dumping(docora: Docora, tmp_path: Path) -> None:
    """Skips the test where no process leaves a core dump."""
    with docora.start_program("sleep", "60", cwd=tmp_path) as process:
        if not leaves_a_core_dump(process):
            pytest.skip("this system writes no core dumps")


def test_a_command_leaves_no_core_dump(docora: Docora, tmp_path: Path) -> None:
    link = docora.add_link()
    assert docora.run("retry", *link.ids).code == 0
    with docora.start_installed("wait", *link.ids, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert any("Waiting for" in line for line in process.stderr)
        assert not leaves_a_core_dump(process)


def test_the_process_of_a_job_leaves_no_core_dump(snapshots: Snapshots) -> None:
    snapshots.add_queued({"a": "1", "b": "2"})
    with held_worker(snapshots) as (_, worker):
        abort(worker.horse())
        worker.await_line("its process was killed")
    assert f"(wait status {SIGABRT:d})" in worker.log
