"""The circuit breaker: git failures are counted, and apps are told when there are too many."""

import hmac
import json
import re
from datetime import timedelta

import pytest

from docora_ops.text import moment
from docora_ops.worker import deliveries
from tests.support.delivery_checks import (
    events,
    failure,
    link_row,
    repository_row,
)
from tests.support.proxy import refused_port
from tests.support.raw_app import Talk, raw_app
from tests.support.snapshots import AUTH_KEY, Snapshots, Upstream, encrypt


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
        signed = f"{request.headers['X-Docora-Timestamp']}.{body}".encode()
        digest = hmac.new(AUTH_KEY.encode(), signed, "sha256").hexdigest()
        assert request.headers["X-Docora-Signature"] == f"sha256={digest}"
    assert link_row(snapshots, beta) == ("synced", 3, "HTTP 500 on created README.md")
    assert link_row(snapshots, other)[0] == "failed"
    assert events(snapshots, "Other") == []


def test_apps_that_can_not_be_told_are_named_in_the_log_and_nothing_else(
    snapshots: Snapshots, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deliveries._SYNC_FAILED_TIMEOUT == 10
    monkeypatch.setattr(deliveries, "_SYNC_FAILED_TIMEOUT", 0.3)
    snapshots.settings_changes = {"circuit_breaker_threshold": 1}

    def say_nothing(talk: Talk) -> None:
        talk.read()
        talk.wait_for_hangup()

    with raw_app(snapshots.receiver, say_nothing) as silent:
        link, upstream = snapshots.add_link({"a": "1"})
        port = refused_port()
        urls = {
            "Silent": silent.base_url,
            "Down": f"http://127.0.0.1:{port}",
            "Broken": None,
            "Locked": None,
        }
        apps = {name: snapshots.add_app(name, base_url=url) for name, url in urls.items()}
        for app_id in apps.values():
            snapshots.link(app_id, link.repository_id)
        snapshots.docora.connection.execute(
            "UPDATE apps SET client_auth_key_encrypted = %s WHERE app_name = 'Locked'",
            (encrypt(AUTH_KEY, bytes(32)),),
        )
        snapshots.receiver.answer = lambda request: 500 if request.app == "Broken" else 200
        take_away(upstream)
        assert "does not" in failure(snapshots, link)
        assert len(silent.requests) == 1
    told = [("sync_failed", "")]
    assert [events(snapshots, name) for name in ("Acme", "Broken", "Locked")] == [told, told, []]
    reasons = {
        "Silent": f"no answer from {silent.host} within 0.3 s",
        "Down": f"127.0.0.1:{port}: Connection refused",
        "Broken": "HTTP 500",
        "Locked": "its auth key can't be decrypted: it was encrypted with another ENCRYPTION_KEY",
    }
    lines = [record.getMessage() for record in caplog.records if "not told" in record.message]
    assert set(lines) == {
        f"app {apps[name]} was not told of the open circuit: {reason}"
        for name, reason in reasons.items()
    }
