"""Commands that are looked at and held up while they run."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.support.docora import Docora, Process
from tests.support.proxy import eventually
from tests.support.rows import TestLink


def await_locks(docora: Docora) -> None:
    waiting = "wait_event_type = 'Lock'"
    eventually(lambda: docora.sessions(waiting), "a connection that waits for a lock")


@contextmanager
def row_locks(docora: Docora, *links: TestLink) -> Iterator[psycopg.Connection]:
    """Another session that holds these rows until the block ends, or it commits."""
    with psycopg.connect(docora.database_url) as other:
        rows = "app_repositories WHERE app_id || '-' || repository_id = ANY (%s)"
        held = [link.job_id for link in links]
        other.execute(f"SELECT FROM {rows} FOR UPDATE".encode(), [held])
        yield other


def await_line(process: Process, text: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"no {text!r} on stderr")
