"""Runs a job in the process of a test, and looks at what it has done."""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
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
        if shared.lease:
            shared.lease.release()
        shared.close()


def add_synced(snapshots: Snapshots, files: Files) -> tuple[TestLink, Upstream]:
    """A link whose app has received these files."""
    link, upstream = snapshots.add_link(files)
    run_job(snapshots, link)
    return link, upstream


def sha(content: bytes | str) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def shas(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {path: sha(content) for path, content in contents.items()}


def events(snapshots: Snapshots, name: str = "Acme") -> list[tuple[str, str]]:
    return [(request.event, request.path) for request in snapshots.received(name).requests]


def link_row(snapshots: Snapshots, link: TestLink) -> tuple[str, int, str | None]:
    row = snapshots.docora.row(link)
    return row["status"], row["retry_count"], row["last_error"]


def snapshot_row(snapshots: Snapshots, repository_id: str) -> dict[str, Any] | None:
    query = "SELECT *, now() - scanned_at AS age FROM repository_snapshots WHERE repository_id = %s"
    return snapshots.docora.connection.execute(query, (repository_id,)).fetchone()


def repository_row(snapshots: Snapshots, repository_id: str) -> dict[str, Any]:
    columns = "*, circuit_open_until - now() AS open_for"
    query = f"SELECT {columns} FROM repositories WHERE repository_id = %s"
    [row] = snapshots.docora.connection.execute(query, (repository_id,)).fetchall()
    return row


def git_failures(snapshots: Snapshots, link: TestLink) -> int:
    return int(repository_row(snapshots, link.repository_id)["consecutive_failures"])


def assert_in_sync(
    snapshots: Snapshots, link: TestLink, upstream: Upstream, name: str = "Acme"
) -> None:
    """App, link, deliveries and snapshot all say what is at the upstream's HEAD."""
    contents = upstream.contents()
    assert snapshots.received(name).files == contents
    assert snapshots.deliveries(link) == shas(contents)
    assert link_row(snapshots, link) == ("synced", 0, None)
    docora = snapshots.docora
    assert docora.one("SELECT now()") - docora.row(link)["last_scanned_at"] < timedelta(minutes=1)
    stored = snapshot_row(snapshots, link.repository_id)
    assert stored is not None
    assert stored["commit_sha"] == upstream.head
    assert stored["age"] < timedelta(minutes=1)
    assert snapshots.snapshot_files(link.repository_id) == shas(contents)


def failure(snapshots: Snapshots, link: TestLink) -> str:
    """Runs the link's job, which has to fail for good; returns its `last_error`."""
    snapshots.docora.set_link(link, retry_count=0, last_error=None)
    message = ""
    try:
        run_job(snapshots, link)
    except Exception as error:  # noqa: BLE001 - RQ takes whatever comes
        message = str(error)
    assert message, "the job has not failed"
    assert link_row(snapshots, link) == ("failed", 1, message)
    return message
