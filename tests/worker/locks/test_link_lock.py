"""The lock of a link that a session of Postgres holds longer, or shorter, than its job."""

from contextlib import closing

import pytest

from docora_ops.database import Database
from docora_ops.database.link_scans import Failure, Refusal, fail_scan
from docora_ops.worker import snapshot_job
from tests.support.delivery_checks import assert_in_sync
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import has_live_job, make_delayed_jobs_due


def test_a_job_whose_link_is_held_by_a_session_that_outlives_its_own_job_is_tried_again(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
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
