"""The second look for drift comes after the grace period."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from rq.job import Job, JobStatus
from rq.utils import now, utcformat

from docora_ops.actions.repair.find import find_drift
from docora_ops.actions.repair.fix import Repair
from docora_ops.drift import DriftKind
from docora_ops.settings import SECOND_LOOK_DELAY
from tests.support.actions import Actions
from tests.support.docora import Docora
from tests.support.rows import TestLink

GRACE = 600


def repair(actions: Actions, **scope: Any) -> None:
    Repair(actions.database, actions.queue, actions.store, GRACE, max_attempts=5, **scope).find()


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (
            lambda actions, _: find_drift(actions.database, actions.queue, grace_seconds=GRACE),
            GRACE,
        ),
        (lambda actions, _: repair(actions), GRACE),
        (lambda actions, link: repair(actions, app_id=link.app_id), GRACE),
        (
            lambda actions, link: repair(actions, app_id=link.app_id, ref=actions.ref(link)),
            SECOND_LOOK_DELAY,
        ),
    ],
    ids=["doctor", "repair", "an app", "a link"],
)
def test_the_second_look_for_drift_comes_after_the_grace_and_nothing_is_held_meanwhile(
    docora: Docora,
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[[Actions, TestLink], object],
    expected: float,
) -> None:
    link = docora.add_link("pending_snapshot")
    docora.age_links()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        held = docora.connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'docora-ops'"
            " AND datname = current_database() AND state <> 'idle'"
        ).fetchall()
        assert held == []

    monkeypatch.setattr("docora_ops.actions.repair.find.time.sleep", sleep)
    look(docora.actions(), link)
    assert waits == [expected]


def test_a_job_that_was_queued_half_a_minute_ago_hides_no_lost_link(docora: Docora) -> None:
    link = docora.add_link("pending_snapshot")
    docora.age_links()
    docora.leave_job(link.job_id, JobStatus.FAILED)
    enqueued_at = utcformat(now() - timedelta(seconds=28.5))
    docora.redis.hset(Job.key_for(link.job_id), "enqueued_at", enqueued_at)
    actions = docora.actions()
    report = find_drift(actions.database, actions.queue, grace_seconds=3)
    assert report.counts[DriftKind.LOST] == 1
