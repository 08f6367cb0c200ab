"""The second look for drift comes after a pause, and what only one look finds is no drift."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from docora_ops.actions.find_drift import Suspects, find_drift, find_misplaced
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink


def everywhere(actions: Actions, link: TestLink) -> Iterator[object]:
    return find_drift(actions.database, actions.queue, delay=2.5)


def due_links(actions: Actions, link: TestLink) -> Iterator[object]:
    return find_misplaced(actions.queue, [actions.ref(link)], delay=2.5)


@pytest.mark.parametrize("look", [everywhere, due_links])
def test_it_tells_of_the_pause_each_second_and_holds_nothing_meanwhile(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[[Actions, TestLink], Iterator[object]],
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
    *pauses, found = look(docora.actions(), link)
    assert waits == [1, 1, 0.5]
    assert pauses == [Suspects(1)] * 4
    if isinstance(found, list):
        assert [finding.drift.job_id for finding in found] == [link.job_id]
    else:
        [(job_id, evidence)] = found.items()  # type: ignore[attr-defined]
        assert (job_id, evidence.partition(" ")[0]) == (link.job_id, "queued")
