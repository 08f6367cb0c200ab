"""Rows that another session holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from pydantic import SecretStr

from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.own_servers import role
from tests.support.rows import TestLink


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


@contextmanager
def released_when_waited_for(
    docora: Docora, holder: psycopg.Connection, prepare: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """In the block: `prepare` and commit once a session of docora-ops waits for a lock."""

    def release() -> None:
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
        prepare()
        holder.commit()

    waiter = threading.Thread(target=release)
    waiter.start()
    yield
    waiter.join()


@contextmanager
def slow_claims(
    docora: Docora, worker_number: int, *, at_once: str = "false"
) -> Iterator[tuple[Actions, psycopg.Connection]]:
    """Actions that wait for a commit before they lock a row, except where `at_once` holds."""
    with (
        role(docora, f"docora_slow_{worker_number}", "secret") as slow,
        psycopg.connect(docora.database_access.owner) as holder,
    ):
        docora.connection.execute(
            f"""
            GRANT ALL ON ALL TABLES IN SCHEMA public TO {slow.name};
            CREATE FUNCTION wait_for_the_test() RETURNS boolean LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN true; END $$;
            ALTER TABLE app_repositories ENABLE ROW LEVEL SECURITY;
            CREATE POLICY reading ON app_repositories FOR SELECT USING (true);
            CREATE POLICY locking ON app_repositories FOR UPDATE
                USING ({at_once} OR wait_for_the_test());
            """.encode()
        )
        holder.execute("SELECT pg_advisory_xact_lock(42)")
        actions = docora.actions(database_url=SecretStr(slow.url("secret")), lock_timeout=20)
        yield actions, holder
        actions.close()
