"""Changes that are killed at the worst moments."""

import signal

import pytest

from tests.support.bulk_actions import RESYNC, RETRY, SCHEDULE, BulkAction
from tests.support.docora import Docora, finish
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy
from tests.support.running_commands import (
    PATIENT,
    await_goodbye,
    pending,
)


@pytest.mark.parametrize(
    ("bulk", "marker", "fault", "pushed"),
    [
        pytest.param(RETRY, PUSH, Fault.HOLD_REPLY, {3}, id="retry after a push"),
        pytest.param(RETRY, COMMIT, Fault.HOLD_REQUEST, {3, 4}, id="retry before a commit"),
        pytest.param(RESYNC, COMMIT, Fault.HOLD_REQUEST, {3, 4}, id="resync before a commit"),
        pytest.param(SCHEDULE, PUSH, Fault.HOLD_REPLY, {3}, id="schedule after a push"),
    ],
)
def test_a_bulk_action_killed_in_its_third_batch_loses_nothing_and_the_next_one_does_the_rest(
    docora: Docora, bulk: BulkAction, marker: bytes, fault: Fault, pushed: set[int]
) -> None:
    total = 4 * bulk.batch + 1
    bulk.add_links(docora, total)
    tables = docora.dump()[0]
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        plan = bulk.plan_third_batch(redis_proxy, postgres_proxy, marker, fault)
        process = docora.start(
            *bulk.command,
            env={**PATIENT, "REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url},
        )
        plan.wait()
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        await_goodbye(docora)
    queued = len(docora.waiting())
    assert queued / bulk.batch in pushed
    docora.assert_sound()
    done = pending(docora)
    if bulk is SCHEDULE:
        assert docora.dump()[0] == tables
    else:
        assert 0 < done <= queued
        assert done % bulk.batch == 0

    result = docora.run(*bulk.command, "--json")
    assert result.code == 0, result
    assert result.data["total"] == (total - done if bulk is RETRY else total)
    # Jobs of batches that were pushed but not committed are found and kept.
    assert result.data["already_queued"] == (queued - done if bulk is RETRY else queued)
    assert docora.waiting() == [link.job_id for link in docora.links()]
    assert docora.statuses() == {bulk.done_status: total}
    docora.assert_sound()
