"""Commands that are looked at, held up and killed while they run."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.docora import Docora, Process
from tests.support.proxy import eventually
from tests.support.rows import TestLink

# For commands that the test holds back until something else has happened.
PATIENT = {"DOCORA_OPS_CONNECT_TIMEOUT": "30", "DOCORA_OPS_STATEMENT_TIMEOUT": "90"}
LOCK_TABLE = "LOCK TABLE app_repositories IN EXCLUSIVE MODE"


def await_locks(docora: Docora, waiting: int = 1) -> None:
    what = f"{waiting} connections that wait for a lock"
    eventually(lambda: docora.sessions("wait_event_type = 'Lock'") >= waiting, what)


@contextmanager
def starting_line(docora: Docora, waiting: int, lock: str = LOCK_TABLE) -> Iterator[None]:
    """Commands that are started in the block go on together, once so many connections wait."""
    with psycopg.connect(docora.database_url) as holder:
        holder.execute(lock.encode())
        yield
        await_locks(docora, waiting)
        holder.rollback()


@contextmanager
def row_locks(docora: Docora, *links: TestLink) -> Iterator[psycopg.Connection]:
    """Another session that holds these rows, or all, until the block ends, or it commits."""
    with psycopg.connect(docora.database_url) as other:
        held = [link.job_id for link in links or docora.links()]
        rows = "app_repositories WHERE app_id || '-' || repository_id = ANY (%s)"
        other.execute(f"SELECT FROM {rows} FOR UPDATE".encode(), [held])
        yield other


@contextmanager
def released_when_waited_for(
    docora: Docora, holder: psycopg.Connection, prepare: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """In the block: `prepare` and commit once a session of docora-ops waits for a lock."""

    def release() -> None:
        try:
            await_locks(docora)
            prepare()
        finally:
            holder.commit()

    with ThreadPoolExecutor(1) as waiter:
        released = waiter.submit(release)
        yield
    released.result()


@contextmanager
def suspended(process: Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{process.pid}/stat")
    eventually(lambda: state.read_text(encoding="utf-8").rpartition(") ")[2][0] == "T", "a stop")
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def await_line(process: Process, text: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"no {text!r} on stderr")


def terminate_sessions(docora: Docora) -> int:
    ours = "datname = current_database() AND application_name = 'docora-ops'"
    end = f"SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE {ours}"
    return int(docora.one(end))


def await_goodbye(docora: Docora) -> None:
    """Until Postgres has noticed that the commands are gone, and undone what they left open."""
    eventually(lambda: docora.sessions("true") == 0, "the end of the commands' connections")
