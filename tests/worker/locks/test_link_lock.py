"""The lock of a link that a session of Postgres holds longer, or shorter, than its job."""

from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from docora_ops.database import Database
from docora_ops.database.link_scans import Failure, Refusal, fail_scan
from docora_ops.demo.receiver import Request
from docora_ops.worker import snapshot_job
from tests.support.delivery_checks import assert_in_sync
from tests.support.docora import Docora
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import has_live_job, make_delayed_jobs_due


def test_a_job_whose_link_is_held_by_a_session_that_outlives_its_own_job_is_tried_again(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres goes on with a long statement after its job has run out of time."""
    monkeypatch.setattr(snapshot_job, "LOCK_TIMEOUT", 0.2)
    link, upstream = snapshots.add_queued({"a": "1\n"}, max_retry_attempts=1)
    docora = snapshots.docora
    docora.set_link(link, status="synced")
    docora.hold_lock(link.job_id)
    snapshots.work_here()
    assert docora.status(link) == "synced"
    assert docora.row(link)["retry_count"] == 0
    assert has_live_job(docora, link)
    docora.connection.execute("SELECT pg_advisory_unlock_all()")
    make_delayed_jobs_due(docora)
    assert snapshots.work().code == 0
    assert_in_sync(snapshots, link, upstream)


@pytest.mark.parametrize(
    ("status", "session", "refusal"),
    [
        ("scanning", "own", None),
        ("scanning", "another", Refusal.BUSY),
        ("scanning", "none", Refusal.BUSY),
        ("pending_snapshot", "none", Refusal.HELD),
    ],
)
def test_only_the_session_that_has_the_link_writes_a_verdict(
    snapshots: Snapshots, status: str, session: str, refusal: Refusal | None
) -> None:
    link = snapshots.docora.add_link(status, retry_count=0)
    snapshots.docora.hold_lock(link.job_id)
    owner = snapshots.docora.connection.info.backend_pid
    sessions = {"own": owner, "another": owner + 1, "none": 0}
    before = snapshots.docora.row(link)
    with closing(Database(snapshots.settings)) as database:
        ending = fail_scan(database, Failure(*link.ids, "it failed", 1, 5), sessions[session])
    if refusal is None:
        assert snapshots.docora.row(link)["retry_count"] == 1
    else:
        assert ending is refusal
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
