"""What a process had in memory when it crashed, its secrets too, is written to no core dump."""

import os
import resource
import subprocess
from pathlib import Path
from signal import SIGABRT

import pytest

from tests.support.docora import Docora


def leaves_a_core_dump(process: subprocess.Popen[str]) -> bool:
    """Crashes the process, with all room for a core dump."""
    _, most = resource.prlimit(process.pid, resource.RLIMIT_CORE)
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (most, most))
    process.send_signal(SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    assert os.WTERMSIG(status) == SIGABRT
    return os.WCOREDUMP(status)


@pytest.mark.slow
def test_a_command_leaves_no_core_dump(docora: Docora, tmp_path: Path) -> None:
    link = docora.add_link()
    assert docora.run("retry", *link.ids).code == 0
    with docora.start_program("sleep", "60", cwd=tmp_path) as process:
        if not leaves_a_core_dump(process):
            pytest.skip("needs the right to write core dumps")
    with docora.start_installed("wait", *link.ids, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert any("Waiting for" in line for line in process.stderr)
        assert not leaves_a_core_dump(process)
