"""`sync_failed`: what apps are told when the circuit of their repository opens."""

import json
import re
from datetime import timedelta

import pytest

from docora_ops.text import moment
from docora_ops.worker import deliveries
from tests.support.proxy import refused_port
from tests.support.snapshots import AUTH_KEY, Snapshots, Upstream, encrypt
from tests.worker.jobs import events, failure, link_row, repository_row
from tests.worker.raw_app import Talk, raw_app

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
