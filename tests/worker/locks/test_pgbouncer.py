"""The worker behind a PgBouncer: it needs sessions to itself."""

import psycopg
import pytest
from pydantic import SecretStr

from docora_ops.database import link_scans
from docora_ops.database.link_scans import begin_scan
from docora_ops.errors import SnapshotError
from tests.support.delivery_checks import assert_in_sync
from tests.support.pgbouncer import Neighbours, needs_pgbouncer, pgbouncer
from tests.support.snapshots import Snapshots

pytestmark = needs_pgbouncer


@pytest.mark.parametrize(
    ("mode", "size", "concurrency", "sentence"),
    [
        ("transaction", 3, "2", "leads to a proxy that pools transactions"),
        ("statement", 2, "1", "is behind a proxy that pools statements"),
    ],
)
def test_a_worker_refuses_to_start_where_transactions_or_statements_are_pooled(
    snapshots: Snapshots, mode: str, size: int, concurrency: str, sentence: str
) -> None:
    link, _ = snapshots.add_queued({"a": "1\n"})
    database = snapshots.docora.database_access
    with pgbouncer(database, mode, size) as access:
        arguments = ("--concurrency", concurrency)
        if mode == "statement":
            result = snapshots.work(*arguments, DATABASE_URL=access.worker)
        else:
            with Neighbours(database, access.worker).at_work():
                result = snapshots.work(*arguments, DATABASE_URL=access.worker)
    assert (result.code, result.stdout) == (5, ""), result
    error, hint = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert sentence in error
    assert hint.startswith("Hint: ")
    assert "pool_mode" in hint
    assert snapshots.docora.waiting() == [link.job_id]
    assert snapshots.docora.redis.keys("rq:worker*") == []


def test_a_worker_works_where_sessions_are_pooled(snapshots: Snapshots) -> None:
    link, upstream = snapshots.add_queued({"a": "1\n"})
    database = snapshots.docora.database_access
    with pgbouncer(database, "session", 8) as access, Neighbours(database, access.worker).at_work():
        result = snapshots.work(DATABASE_URL=access.worker)
    assert result.code == 0, result
    assert_in_sync(snapshots, link, upstream)


def test_a_job_that_loses_its_lock_sends_nothing(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_link({"a": "1\n"})
    with (
        pgbouncer(snapshots.docora.database_access, "transaction", 2) as access,
        psycopg.connect(access.worker) as other,
    ):

        def begin(*arguments: object) -> object:
            other.execute("SELECT 1")  # in the session that the job has had so far
            return begin_scan(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(link_scans, "begin_scan", begin)
        snapshots.settings_changes = {"database_url": SecretStr(access.worker)}
        with pytest.raises(SnapshotError, match="has not got the link's lock"):
            snapshots.run_job(link)
    assert snapshots.received().requests == []
    assert "a proxy that pools sessions" in snapshots.docora.row(link)["last_error"]
