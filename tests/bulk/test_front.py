"""`--front`: the jobs of many links at the head of the queue, in the order of the apps' turns."""

import random
from collections.abc import Sequence

import pytest

from docora_ops.links import Outcome
from tests.support.bulk_actions import RESYNC, RETRY, BulkAction
from tests.support.docora import Docora
from tests.support.job_states import (
    scheduled,
)
from tests.support.rows import in_turns

KEY = "rq:queue:snapshot-queue"
OTHERS = [f"other-{number}" for number in range(40)]

both_actions = pytest.mark.parametrize("bulk", [RETRY, RESYNC], ids=str)


def add_links(docora: Docora, bulk: BulkAction, amount: int = 30) -> list[str]:
    """Links, and the order in which their jobs are to stand."""
    bulk.add_links(docora, amount, apps=1 if bulk is RESYNC else 4)
    return in_turns(link.job_id for link in docora.links())


def mixed(*parts: Sequence[str]) -> list[str]:
    """All ids in an order that no other order resembles."""
    ids = [job_id for part in parts for job_id in part]
    random.Random(7).shuffle(ids)
    return ids


@both_actions
@pytest.mark.parametrize("batch_size", [1, 2, 3, 1000])
def test_jobs_stand_at_the_head_and_apps_take_turns(
    docora: Docora, bulk: BulkAction, batch_size: int
) -> None:
    order = add_links(docora, bulk)
    docora.redis.rpush(KEY, *OTHERS)
    result = bulk.run(docora.actions(), batch_size=batch_size, front=True)
    assert result.counts == {Outcome.QUEUED: len(order)}
    assert docora.waiting() == order + OTHERS
    assert docora.statuses() == {"pending_snapshot": len(order)}


@both_actions
def test_new_jobs_stand_ahead_of_all_that_wait_and_those_keep_their_places(
    docora: Docora, bulk: BulkAction
) -> None:
    order = add_links(docora, bulk)
    before = mixed(order[::2], OTHERS)
    for job_id in before:
        docora.enqueue(job_id)
    scheduled(docora, order[1])
    result = bulk.run(docora.actions(), batch_size=7, front=True)
    assert result.counts == {Outcome.QUEUED: 14, Outcome.ALREADY_QUEUED: 16}
    assert docora.waiting() == [*order[3::2], *before]
    assert docora.registries(order[1]) == {"rq:scheduled:snapshot-queue"}


def test_a_link_that_is_refused_among_others_does_not_change_their_order(docora: Docora) -> None:
    order = add_links(docora, RETRY)
    bad = order[7]
    docora.redis.rpush(KEY, *OTHERS)
    docora.add_trigger(
        "RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'",
        when=f"old.app_id || '-' || old.repository_id = '{bad}'",
    )
    result = docora.actions().retry_all(batch_size=1000, front=True)
    assert result.counts == {Outcome.QUEUED: len(order) - 1, Outcome.NOT_QUEUED: 1}
    assert docora.waiting() == [job_id for job_id in order if job_id != bad] + OTHERS
