"""Rows that another session holds."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
from pydantic import SecretStr

from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.own_servers import role
from tests.support.rows import TestLink
from tests.support.running_commands import await_locks


@contextmanager
def row_locks(docora: Docora, *links: TestLink) -> Iterator[psycopg.Connection]:
    """Another session that holds these rows, or all, until the block ends, or it commits."""
    with psycopg.connect(docora.database_access.owner) as other:
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
