"""Rows that another session holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.harness import Docora
from tests.rows import TestLink


@contextmanager
def row_locks(docora: Docora, *links: TestLink) -> Iterator[psycopg.Connection]:
    """Another session that holds these rows until the block ends, or it commits."""
    with psycopg.connect(docora.database_access.owner) as other:
        for link in links:
            other.execute(
                "SELECT FROM app_repositories WHERE app_id = %s AND repository_id = %s FOR UPDATE",
                (link.app_id, link.repository_id),
            )
        yield other


def release_when_waited_for(docora: Docora, holder: psycopg.Connection) -> None:
    """Commit as soon as a session of docora-ops waits for a lock."""
    with psycopg.connect(docora.database_access.owner, autocommit=True) as observer:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            row = observer.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'docora-ops'"
                " AND wait_event_type = 'Lock'"
            ).fetchone()
            if row and row[0]:
                break
    holder.commit()
