"""The lock of a link that a session of Postgres holds longer, or shorter, than its job."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from docora_ops.database import Database
from docora_ops.database.link_scans import Ending, Failure, Refusal, fail_scan
from docora_ops.demo.receiver import Request
from docora_ops.worker import snapshot_job
from tests.support.delivery_checks import assert_in_sync
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import has_live_job, make_delayed_jobs_due

FULL_DISK = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON app_repositories
    FOR EACH ROW WHEN (new.status = 'scanning') EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize("tries", [1, 3])
def test_a_job_that_has_the_lock_and_can_not_mark_its_link_writes_its_verdict(
    snapshots: Snapshots, tries: int
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"}, retry_count=0)
    snapshots.queue(link, max_retry_attempts=tries)
    snapshots.docora.connection.execute(FULL_DISK)
    snapshots.work_here()
    row = snapshots.docora.row(link)
    assert row["status"] == ("failed" if tries == 1 else "pending_snapshot")
    assert row["retry_count"] == 1
    assert "No space left on device" in row["last_error"]
    assert has_live_job(snapshots.docora, link) is (tries > 1)


@pytest.mark.parametrize("status", ["pending_snapshot", "synced"])
def test_a_job_whose_link_is_held_by_a_session_that_outlives_its_own_job_is_tried_again(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """Postgres goes on with a long statement after its job has run out of time."""
    monkeypatch.setattr(snapshot_job, "_LINK_TIMEOUT", 0.2)
    link, upstream = snapshots.add_link({"a": "1\n"}, retry_count=0)
    snapshots.queue(link, max_retry_attempts=1)
    docora = snapshots.docora
    docora.connection.execute("UPDATE app_repositories SET status = %s", (status,))
    docora.hold_lock(link.job_id)
    snapshots.work_here()
    assert docora.status(link) == status
    assert docora.row(link)["retry_count"] == 0
    assert has_live_job(docora, link)
    docora.connection.execute("SELECT pg_advisory_unlock_all()")
    make_delayed_jobs_due(docora)
    assert snapshots.work().code == 0
    assert_in_sync(snapshots, link, upstream)


def fail(snapshots: Snapshots, link: TestLink, session_id: int) -> Ending | Refusal:
    """The verdict of a job in this session of Postgres."""
    with closing(Database(snapshots.settings)) as database:
        failure = Failure(link.app_id, link.repository_id, "it failed", 1, 5)
        return fail_scan(database, failure, session_id)


@pytest.mark.parametrize("is_own", [True, False])
def test_only_the_session_that_has_the_link_writes_a_verdict(
    snapshots: Snapshots, is_own: bool
) -> None:
    link = snapshots.docora.add_link("scanning", retry_count=0)
    snapshots.docora.hold_lock(link.job_id)
    owner = snapshots.docora.connection.info.backend_pid
    ending = fail(snapshots, link, owner if is_own else owner + 1)
    assert (ending is Refusal.BUSY) is not is_own
    assert snapshots.docora.row(link)["retry_count"] == int(is_own)


@pytest.mark.parametrize(
    ("status", "refusal"), [("scanning", Refusal.BUSY), ("pending_snapshot", Refusal.HELD)]
)
def test_a_link_that_another_session_has_gets_no_verdict(
    snapshots: Snapshots, status: str, refusal: Refusal
) -> None:
    link = snapshots.docora.add_link(status, retry_count=0)
    snapshots.docora.hold_lock(link.job_id)
    before = snapshots.docora.row(link)
    assert fail(snapshots, link, session_id=0) is refusal
    assert snapshots.docora.row(link) == before


def is_there(docora: Docora, session: psycopg.Connection) -> bool:
    pid = session.info.backend_pid
    return bool(
        docora.connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall()
    )


def test_a_database_that_ends_idle_sessions_leaves_a_slow_job_its_link(
    snapshots: Snapshots,
) -> None:
    link, upstream = snapshots.add_link({"a": "1\n"})
    docora = snapshots.docora
    database = sql.Identifier(docora.connection.info.dbname)
    docora.connection.execute("SET idle_session_timeout = 0")
    with psycopg.connect(docora.database_access.owner, autocommit=True) as other:
        other.execute(
            sql.SQL("ALTER DATABASE {} SET idle_session_timeout = '50ms'").format(database)
        )
        try:

            def answer(_request: Request) -> int:
                """When a session that has been idle for a shorter time than the job's is gone."""
                with psycopg.connect(docora.database_access.owner) as idle:
                    eventually(lambda: not is_there(docora, idle), "the end of an idle session")
                return 200

            snapshots.receiver.answer = answer
            snapshots.run_job(link)
        finally:
            other.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))
    assert_in_sync(snapshots, link, upstream)
