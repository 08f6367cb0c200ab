"""A Redis that is lost, or refuses, in the middle of a bulk retry."""

from collections.abc import Callable

import pytest

from tests.errors.bulk_midway import hold_bulk, rest_is_finished, tells_what_was_done
from tests.errors.checks import refuses
from tests.support.docora import Docora, finish
from tests.support.own_servers import OwnRedis
from tests.support.proxy import PUSH, Fault, Proxy
from tests.support.running_commands import progress_of


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(OwnRedis.run_out_of_memory, "it is out of memory", id="out of memory"),
        pytest.param(OwnRedis.become_replica, "it is a read-only replica", id="read-only"),
    ],
)
def test_a_redis_that_refuses_writes_midway_stops_a_bulk_retry(
    docora: Docora, own: OwnRedis, spoil: Callable[[OwnRedis], None], sentence: str
) -> None:
    with Proxy.before_redis(own.url) as proxy:
        process, push = hold_bulk(docora, proxy, 200)
        spoil(own)
        push.release()
        result = finish(process)
    document = refuses(result, "redis", sentence)
    tells_what_was_done(docora, document, result, 40)
    own.recover()
    assert len(docora.waiting()) == 40
    rest_is_finished(docora, already_queued=0)


def test_a_reply_that_is_lost_after_a_push_of_a_bulk_retry_leaves_each_job_once(
    docora: Docora,
) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.LOSE_REPLY, number=5)
        result = docora.run(
            *("retry-all-failed", "--batch-size", "10", "--json"), env={"REDIS_URL": proxy.url}
        )
        push.wait()
    document = refuses(result, "redis", "broke the connection")
    done = docora.statuses()["pending_snapshot"]
    # The sixth batch was in flight as well.
    assert done in {40, 50}
    tells_what_was_done(docora, document, result, done)
    progress = progress_of(docora, document["data"]["operation_id"])
    assert progress["completed"] == str(done)
    assert progress["cancelled"] == "true"
    assert len(docora.waiting()) == done + 10
    docora.assert_sound()
    rest_is_finished(docora, already_queued=10)
