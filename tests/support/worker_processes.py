"""Worker processes that a test looks into, stops and kills."""

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import Signals
from typing import cast

from tests.support.docora import INTERMEDIATE, QUEUE, WIP, Docora, Process
from tests.support.git_over_http import Gate, GitSite, gate_at
from tests.support.proxy import eventually, patience
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

_HELD = (
    *("rq:execution*", "rq:workers", "rq:worker:*", "rq:scheduler-lock:*", "docora:repo-lock:*"),
    *("docora-ops:lease:*", "docora-ops:cleaning"),
)


class Running:
    """A command with all its processes, which have a session of their own."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.pid, self._id = process.pid, str(process.pid)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def processes(self) -> list[int]:
        stats = ((pid, _stat(pid)) for pid in all_processes())
        return [pid for pid, (kind, *_, session) in stats if kind != "Z" and session == self._id]

    @property
    def children(self) -> list[int]:
        return [pid for pid in all_processes() if _stat(pid)[1] == self._id]

    def await_line(self, text: str, times: int = 1) -> None:
        eventually(lambda: self.log.count(text) >= times, f"{text!r} in the log")

    def await_ready(self, workers: int = 1) -> None:
        self.await_line("istening on", workers)  # our line, or that of RQ

    def signal(self, number: Signals) -> None:
        self.process.send_signal(number)

    def signal_all(self, number: Signals) -> None:
        """The command itself first, so that it can't do anything about the rest."""
        for pid in sorted(self.processes, key=lambda pid: pid != self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> int:
        """Waits for its end, for as long as it goes on to log."""
        lines = -1
        while len(self.lines) > lines:
            lines = len(self.lines)
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(patience())
                self._reader.join(patience())
                return code
        raise AssertionError(f"no end after {self.log}")

    def stop(self) -> None:
        self.signal(Signals.SIGTERM)
        assert self.end() == 0

    def kill(self) -> None:
        self.signal_all(Signals.SIGKILL)
        self.end()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)


@contextmanager
def _killed(process: Process) -> Iterator[Running]:
    with process:
        running = Running(process)
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def running(snapshots: Snapshots, *arguments: str, **changes: str | None) -> Iterator[Running]:
    """`docora-ops worker` with these arguments; killed at the end of the block."""
    with _killed(snapshots.start_worker(*arguments, **changes)) as worker:
        yield worker


@contextmanager
def held_worker(
    snapshots: Snapshots, *arguments: str, file: str = "b", **changes: str | None
) -> Iterator[tuple[Gate, Running]]:
    """Starts a worker, and holds it while its job waits for the app's answer about the file."""
    with (
        gate_at(snapshots.receiver, file) as gate,
        running(snapshots, *arguments, **changes) as worker,
    ):
        gate.wait()
        yield gate, worker


@contextmanager
def running_program(
    command: Sequence[str], snapshots: Snapshots, **changes: str | None
) -> Iterator[Running]:
    """Any program, with the environment of a worker; killed at the end of the block."""
    environment = snapshots.environment(**changes)
    with _killed(snapshots.docora.start_program(*command, env=environment)) as program:
        yield program


def all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def _stat(pid: int) -> list[str]:
    """State, parent, process group and session of a process; where it is gone, a zombie's."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    return ["Z", "", "", ""]


def await_waiting_worker(docora: Docora) -> None:
    eventually(
        lambda: any("b" in client["flags"] for client in docora.redis.client_list()),
        "a worker that waits for jobs",
    )


def state(docora: Docora, link: TestLink) -> tuple[str, int]:
    row = docora.row(link)
    return row["status"], row["retry_count"]


def await_status(docora: Docora, link: TestLink, status: str) -> None:
    eventually(lambda: docora.status(link) == status, f"a link that is {status}")


def expire(docora: Docora) -> None:
    """Makes all that killed or paused workers hold expire, and jobs count as taken long ago."""
    docora.redis.zunionstore(WIP, {WIP: 0})
    for pattern in _HELD:
        for key in docora.redis.scan_iter(pattern):
            docora.redis.delete(key)
    for job_id in cast("list[bytes]", docora.redis.lrange(INTERMEDIATE, 0, -1)):
        docora.redis.set(f"{INTERMEDIATE}:first_seen:{job_id.decode()}", 0)


def make_delayed_jobs_due(docora: Docora) -> None:
    docora.redis.zunionstore(f"rq:scheduled:{QUEUE}", {f"rq:scheduled:{QUEUE}": 0})


def git_processes(site: GitSite) -> list[int]:
    """Those that talk to the site."""
    host = site.url.removeprefix("http://")
    return [pid for pid in all_processes() if host in command_line(pid)]
