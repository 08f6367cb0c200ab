"""What becomes of a job that fails, in RQ and in its link's row, and what must not disturb that."""

import time

import pytest
from rq import SimpleWorker
from rq.job import JobStatus

from docora_ops.worker import snapshot_job as job_module
from tests.support.delivery_checks import events, link_row
from tests.support.docora import QUEUE
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import make_delayed_jobs_due


def test_a_job_is_tried_again_later_and_later_and_given_up_in_the_end(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued(
        {"a": "1", "src/b": "1"}, max_retry_attempts=3, retry_base_delay_ms=20_000
    )
    snapshots.receiver.answer = lambda request: 500 if request.path == "src/b" else 200
    for number, delay in enumerate((20, 40), start=1):
        begun = time.time()
        assert snapshots.work(MAX_RETRY_ATTEMPTS="3").code == 0
        error = "HTTP 500 on created src/b"
        assert link_row(snapshots, link) == ("pending_snapshot", number, error)
        assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED
        when = snapshots.docora.redis.zscore(f"rq:scheduled:{QUEUE}", link.job_id)
        assert isinstance(when, float)
        assert begun + delay - 1 <= when <= time.time() + delay + 1
        make_delayed_jobs_due(snapshots.docora)
    assert snapshots.work(MAX_RETRY_ATTEMPTS="3").code == 0
    assert link_row(snapshots, link) == ("failed", 3, "HTTP 500 on created src/b")
    job = snapshots.docora.job(link)
    assert job.get_status() is JobStatus.FAILED
    failed = snapshots.docora.queue.failed_job_registry.key
    assert snapshots.docora.registries(link.job_id) == {failed}
    assert snapshots.docora.waiting() == []
    assert [path for _, path in events(snapshots)] == ["a", "src/b", "src/b", "src/b"]
    result = job.latest_result()
    assert result is not None
    assert result.exc_string is not None
    assert result.exc_string.rstrip().endswith("SnapshotError: HTTP 500 on created src/b")


def test_a_job_without_tries_left_makes_its_link_failed_at_once(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_queued({"a": "1"}, max_retry_attempts=1)
    snapshots.receiver.answer = lambda _: 500
    snapshots.work_here()
    assert link_row(snapshots, link) == ("failed", 1, "HTTP 500 on created a")
    assert snapshots.docora.job(link).get_status() is JobStatus.FAILED


def test_a_job_without_settings_is_kept(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = snapshots.add_queued({"a": "1"}, max_retry_attempts=1)
    monkeypatch.setattr(job_module, "_resources", None)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    SimpleWorker([snapshots.docora.queue], connection=snapshots.docora.redis).work(burst=True)
    assert link_row(snapshots, link)[0] == "pending_snapshot"
    assert snapshots.docora.job(link).get_status() is JobStatus.SCHEDULED


def test_the_verdict_waits_for_the_disk_though_deliveries_do_not(snapshots: Snapshots) -> None:
    link, _ = snapshots.add_link({"a": "1\n", "b": "2\n"})
    snapshots.docora.connection.execute(
        "CREATE TABLE commits (what text, waits text); GRANT INSERT ON commits TO PUBLIC"
    )
    note = "INSERT INTO public.commits VALUES (TG_NAME, current_setting('synchronous_commit'))"
    for what, event, when in (
        ("delivery", "AFTER INSERT ON app_delivered_files", "true"),
        ("verdict", "AFTER UPDATE ON app_repositories", "NEW.status = 'synced'"),
        ("snapshot", "AFTER INSERT ON repository_snapshots", "true"),
    ):
        snapshots.docora.add_trigger(note, event=event, when=when, name=what)
    snapshots.run_job(link)
    rows = snapshots.docora.connection.execute("SELECT what, waits FROM commits").fetchall()
    assert [(row["what"], row["waits"]) for row in rows] == [
        ("delivery", "off"),
        ("delivery", "off"),
        ("snapshot", "on"),
        ("verdict", "on"),
    ]
