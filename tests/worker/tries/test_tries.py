"""What becomes of a job that fails: in RQ, in its link's row, and in the circuit."""

import json
import re
import time
from datetime import timedelta

import pytest
from rq import SimpleWorker
from rq.job import JobStatus

from docora_ops.text import moment
from docora_ops.worker import deliveries
from docora_ops.worker import snapshot_job as job_module
from tests.support.delivery_checks import (
    events,
    failure,
    link_row,
    repository_row,
)
from tests.support.docora import QUEUE
from tests.support.proxy import refused_port
from tests.support.raw_app import Talk, raw_app
from tests.support.snapshots import AUTH_KEY, Snapshots, Upstream, encrypt
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


ANOTHER_KEY = "it was encrypted with another ENCRYPTION_KEY"


def take_away(upstream: Upstream) -> None:
    """From now on git fails."""
    upstream.path.rename(upstream.path.with_suffix(".away"))


def test_sync_failed_is_these_bytes(snapshots: Snapshots) -> None:
    snapshots.settings_changes = {
        "circuit_breaker_threshold": 1,
        "circuit_breaker_cooldown_ms": 60_000,
    }
    link, upstream = snapshots.add_link({"a": "1"})
    beta = snapshots.link(snapshots.add_app("Beta"), link.repository_id, "synced", retry_count=3)
    elsewhere = snapshots.add_upstream("octo/other")
    other = snapshots.link(snapshots.add_app("Other"), snapshots.add_repository(elsewhere, "o/o"))
    take_away(upstream)
    error = failure(snapshots, link)
    row = repository_row(snapshots, link.repository_id)
    assert timedelta(seconds=50) < row["open_for"] <= timedelta(seconds=60)
    for name, app_id, retry_count in (("Acme", link.app_id, 1), ("Beta", beta.app_id, 3)):
        [request] = snapshots.received(name).requests
        assert request.event == "sync_failed"
        body = request.body.decode()
        assert re.sub(r'"timestamp":"[0-9-]{10}T[0-9:]{8}\.\d{3}Z"', '"timestamp":T', body) == (
            '{"event":"sync_failed",'
            f'"repository":{{"repository_id":"{link.repository_id}","github_url":"{upstream.url}",'
            '"owner":"octo","name":"api"},'
            f'"error":{{"type":"git_failure","message":{json.dumps(error, ensure_ascii=False)}}},'
            '"circuit_breaker":{"status":"open","consecutive_failures":1,"threshold":1,'
            f'"cooldown_until":"{moment(row["circuit_open_until"])}"}},'
            f'"retry_count":{retry_count},"timestamp":T}}'
        )
        assert request.headers["X-Docora-App-Id"] == app_id
    assert link_row(snapshots, beta) == ("synced", 3, "HTTP 500 on created README.md")
    assert link_row(snapshots, other)[0] == "failed"
    assert events(snapshots, "Other") == []


def test_apps_that_can_not_be_told_are_named_in_the_log_and_nothing_else(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deliveries._SYNC_FAILED_TIMEOUT == 10
    monkeypatch.setattr(deliveries, "_SYNC_FAILED_TIMEOUT", 0.3)
    snapshots.settings_changes = {"circuit_breaker_threshold": 1}
    link, upstream = snapshots.add_link({"a": "1"})
    take_away(upstream)
    port = refused_port()
    with raw_app(snapshots.receiver, Talk.wait_for_hangup) as silent:
        reasons = {
            "Silent": f"no answer from {silent.host} within 0.3 s",
            "Down": f"127.0.0.1:{port}: Connection refused",
            "Broken": "HTTP 500",
            "Locked": f"its auth key can't be decrypted: {ANOTHER_KEY}",
        }
        urls = {"Silent": silent.base_url, "Down": f"http://127.0.0.1:{port}"}
        apps = {name: snapshots.add_app(name, base_url=urls.get(name)) for name in reasons}
        for app_id in apps.values():
            snapshots.link(app_id, link.repository_id)
        snapshots.docora.connection.execute(
            "UPDATE apps SET client_auth_key_encrypted = %s WHERE app_name = 'Locked'",
            (encrypt(AUTH_KEY, bytes(32)),),
        )
        snapshots.receiver.answer = lambda request: 500 if request.app == "Broken" else 200
        assert "does not" in failure(snapshots, link)
    told = [("sync_failed", "")]
    assert [events(snapshots, name) for name in ("Acme", "Broken", "Locked")] == [told, told, []]
    lines = [record.getMessage() for record in caplog.records if "not told" in record.message]
    assert set(lines) == {
        f"app {apps[name]} was not told of the open circuit: {reason}"
        for name, reason in reasons.items()
    }
