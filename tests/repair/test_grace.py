"""The second look for drift comes after a pause, and what only one look finds is no drift."""

import time
from types import SimpleNamespace

import pytest

from docora_ops.actions.find_drift import Suspects, find_drift
from tests.support.docora import Docora


def test_it_tells_of_the_pause_each_second_and_holds_nothing_meanwhile(
    docora: Docora, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = docora.add_link("pending_snapshot")
    docora.queue_job(link)
    docora.redis.lrem(docora.queue.key, 0, link.job_id)
    docora.age_links()
    now = time.monotonic()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(round(seconds, 1))
        held = docora.connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'docora-ops'"
            " AND datname = current_database() AND state <> 'idle'"
        ).fetchall()
        assert held == []

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: now)
    monkeypatch.setattr("docora_ops.actions.find_drift.time", clock)
    actions = docora.actions()
    *pauses, found = find_drift(actions.database, actions.queue, delay=2.5)
    assert waits == [1, 1, 0.5]
    assert pauses == [Suspects(1)] * 4
    assert isinstance(found, list)
    assert [finding.drift.job_id for finding in found] == [link.job_id]
