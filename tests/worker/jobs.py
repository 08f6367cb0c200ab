"""Runs a job in the process of a test."""

from unittest.mock import patch

from rq.job import Job

from docora_ops.worker import resources, snapshot_job
from tests.support.rows import TestLink
from tests.support.snapshots import Files, Snapshots, Upstream


def run_job(snapshots: Snapshots, link: TestLink, *, tries: int = 0) -> None:
    """Runs the link's job outside RQ. `tries`: how many further tries the job has."""
    shared = resources.use_settings(snapshots.settings, snapshots.docora.redis)
    job = Job.create("module.function", connection=snapshots.docora.redis)
    job.retries_left, job.retry_intervals = tries, [1]
    try:
        with patch.object(snapshot_job, "get_current_job", return_value=job):
            snapshot_job.snapshot(app_id=link.app_id, repository_id=link.repository_id)
    finally:
        shared.close()


def add_synced(snapshots: Snapshots, files: Files) -> tuple[TestLink, Upstream]:
    """A link whose app has received these files."""
    link, upstream = snapshots.add_link(files)
    run_job(snapshots, link)
    return link, upstream
