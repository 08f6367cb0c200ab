"""A job is killed, and Postgres does not know it yet: its session still has the link."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from docora_ops.worker.recovery import LinkRecovery, Tries
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import await_waiting_session


def test_a_killed_job_is_judged_once_its_session_has_ended(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    link = docora.add_link("scanning", retry_count=0, last_error=None)
    job = docora.enqueue(link.job_id)
    job.retries_left = 2
    recovery = LinkRecovery(snapshots.settings, docora.redis)
    docora.hold_lock(link.job_id)
    with ThreadPoolExecutor(1) as thread:
        judged = thread.submit(
            recovery.count_killed_job, link.app_id, link.repository_id, Tries(job), reason="it fell"
        )
        try:
            await_waiting_session(snapshots)
            # What the job had sent before it was killed arrives now.
            docora.connection.execute("UPDATE app_repositories SET status = 'synced'")
        finally:
            docora.connection.execute("SELECT pg_advisory_unlock_all()")
        judged.result()
    row = docora.row(link)
    assert (row["status"], row["retry_count"], row["last_error"]) == ("synced", 0, None)


def test_a_killed_job_whose_link_another_has_is_tried_again(snapshots: Snapshots) -> None:
    """It may be the other that ends without a word: somebody has to look."""
    docora = snapshots.docora
    link = docora.add_link("scanning", retry_count=0)
    job = docora.enqueue(link.job_id)
    job.retries_left = 0
    docora.hold_lock(link.job_id)
    before = docora.row(link)
    settings = snapshots.settings.model_copy(update={"lock_timeout": 0.1})
    recovery = LinkRecovery(settings, docora.redis)
    recovery.count_killed_job(link.app_id, link.repository_id, Tries(job), reason="it fell")
    assert job.retries_left == 1
    assert docora.row(link) == before
