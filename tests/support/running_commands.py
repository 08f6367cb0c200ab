"""Commands that are looked at, and killed, while they run."""

import fcntl
import os
import signal
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg

from docora_ops.queue.redis_client import server_time
from tests.support.docora import Docora
from tests.support.fork_server import HOLDS_ROWS, ForkedProcess
from tests.support.proxy import eventually, patience

# For commands that the test holds back until something else has happened.
PATIENT = {
    "DOCORA_OPS_CONNECT_TIMEOUT": "30",
    "DOCORA_OPS_LOCK_TIMEOUT": "60",
    "DOCORA_OPS_STATEMENT_TIMEOUT": "90",
    HOLDS_ROWS: "60",
}
LOCK_TABLE = "LOCK TABLE app_repositories IN EXCLUSIVE MODE"
DASHBOARDS_FIELDS = ("total", "completed", "succeeded", "failed", "cancelled")
STOPPING = "Stopping after the current batches"


def progress_of(docora: Docora, operation_id: str) -> dict[str, str]:
    fields: Any = docora.redis.hgetall(f"docora:bulk:{operation_id}")
    names = [name for name in DASHBOARDS_FIELDS if name.encode() in fields]
    return {name: fields[name.encode()].decode() for name in names}


def only_operation(docora: Docora) -> str:
    [key] = cast("list[bytes]", docora.redis.keys("docora:bulk:*"))
    return key.decode().removeprefix("docora:bulk:")


def age_operation(docora: Docora, operation_id: str, seconds: int) -> None:
    """Leaves an operation in Redis as it is so many seconds after its last step."""
    record = f"docora-ops:operation:{operation_id}:record"
    docora.redis.hset(record, "stepped_at", int((server_time(docora.redis) - seconds) * 1000))
    docora.redis.expire(record, 7 * 86_400 - seconds)
    for key in (f"docora:bulk:{operation_id}", f"docora-ops:operation:{operation_id}:links"):
        docora.redis.expire(key, max(0, 3_600 - seconds))


def await_locks(docora: Docora, waiting: int = 1) -> None:
    what = f"{waiting} connections that wait for a lock"
    eventually(lambda: docora.sessions("wait_event_type = 'Lock'") >= waiting, what)


@contextmanager
def starting_line(docora: Docora, waiting: int, lock: str = LOCK_TABLE) -> Iterator[None]:
    """Commands that are started in the block go on together, once so many connections wait."""
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute(lock.encode())
        yield
        await_locks(docora, waiting)
        holder.rollback()


@contextmanager
def suspended(process: ForkedProcess) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{process.pid}/stat")
    eventually(lambda: state.read_text(encoding="utf-8").rpartition(") ")[2][0] == "T", "a stop")
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def terminate_sessions(docora: Docora) -> int:
    ours = "datname = current_database() AND application_name = 'docora-ops'"
    end = f"SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE {ours}"
    return int(docora.one(end))


def await_line(process: ForkedProcess, text: str) -> None:
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"no {text!r} on stderr")


def small_pipe() -> tuple[int, int, Callable[[], bool]]:
    """Both ends of a pipe of 4096 bytes, and whether it is full."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    assert size == 4096

    def is_full() -> bool:
        return fcntl.ioctl(reader, termios.FIONREAD, bytes(4)) == struct.pack("i", size)

    return reader, writer, is_full


class ErrorOutput:
    def __init__(self, process: ForkedProcess) -> None:
        self._process = process
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        self._lines.extend(iter(self._process.stderr.readline, ""))

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.text, f"{text!r} on stderr")

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def finish(self) -> tuple[int, str]:
        with self._process as process:
            code, stdout = process.wait(patience()), process.stdout.read()
            self._thread.join(patience())
        return code, stdout


def await_goodbye(docora: Docora) -> None:
    """Until Postgres has noticed that the commands are gone, and undone what they left open."""
    eventually(lambda: docora.sessions("true") == 0, "the end of the commands' connections")


def pending(docora: Docora) -> int:
    return docora.statuses().get("pending_snapshot", 0)
