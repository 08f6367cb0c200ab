"""A Postgres that is lost in the middle of a bulk retry."""

import time
from typing import cast

from tests.errors.bulk_midway import rest_is_finished, tells_what_was_done
from tests.errors.checks import HURRIED, refuses
from tests.support.docora import Docora, Result, finish
from tests.support.own_servers import OwnRedis
from tests.support.proxy import COMMIT, PUSH, Fault, Proxy, eventually


def test_a_postgres_that_hangs_midway_is_given_up_by_a_bulk_retry_once(docora: Docora) -> None:
    docora.add_links(200, apps=2)
    with (
        Proxy.before_redis(docora.redis_url) as redis_proxy,
        Proxy.before_postgres(docora.database_url) as postgres_proxy,
    ):
        push = redis_proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        process = docora.start(
            *("retry-all-failed", "--batch-size", "10", "--json"),
            env={"REDIS_URL": redis_proxy.url, "DATABASE_URL": postgres_proxy.url, **HURRIED},
        )
        push.wait()
        [key] = cast("list[bytes]", docora.redis.keys("docora:bulk:*"))
        # Later than they are committed: the reply to a commit must have come through.
        eventually(lambda: docora.redis.hget(key, "completed") == b"40", "four batches counted")
        postgres_proxy.freeze()
        push.release()
        since = time.monotonic()
        result = finish(process)
        # Statement timeout and grace make six; another wait for a farewell would make twelve.
        assert time.monotonic() - since < 10
    document = refuses(result, "postgres", "did not answer in time")
    tells_what_was_done(docora, document, result, 40)
    # The batches whose push was held, or waited for that, were pushed but never committed.
    rest_is_finished(docora, already_queued=len(docora.waiting()) - 40)


def lose_a_commit(docora: Docora, fault: Fault) -> Result:
    """Of a bulk retry of 200 links in batches of ten, when four of them are committed."""
    docora.add_links(200, apps=2)
    with Proxy.before_postgres(docora.database_url) as proxy:
        # The first commit is that of the selection.
        commit = proxy.plan(COMMIT, fault, number=6)
        # The other connection may finish its batch, however late it hears of the loss.
        proxy.plan(COMMIT, Fault.LOSE_REQUEST, number=8)
        result = docora.run(
            *("retry-all-failed", "--batch-size", "10", "--json"), env={"DATABASE_URL": proxy.url}
        )
        commit.wait()
    return result


def test_one_lost_connection_stops_a_bulk_retry_which_counts_what_the_other_has_done(
    docora: Docora,
) -> None:
    result = lose_a_commit(docora, Fault.LOSE_REQUEST)
    document = refuses(result, "postgres", "Postgres database")
    done = docora.statuses()["pending_snapshot"]
    assert done in {40, 50}
    tells_what_was_done(docora, document, result, done)
    rest_is_finished(docora, already_queued=len(docora.waiting()) - done)


def test_a_commit_of_a_bulk_retry_of_which_nobody_hears_loses_nothing(docora: Docora) -> None:
    result = lose_a_commit(docora, Fault.LOSE_REPLY)
    document = refuses(result, "postgres", "Postgres database")
    assert document["data"]["total"] == 200
    assert docora.statuses()["pending_snapshot"] in {50, 60}
    docora.assert_sound()
    rest_is_finished(
        docora, already_queued=len(docora.waiting()) - docora.statuses()["pending_snapshot"]
    )


def test_links_that_a_bulk_retry_did_one_by_one_are_counted_when_redis_is_lost(
    docora: Docora, own: OwnRedis
) -> None:
    docora.add_links(10)
    # So the whole batch fails, and its links are tried one by one.
    docora.add_trigger("RAISE 'no'", when="old.repository_id LIKE 'repo_%1'")
    with Proxy.before_redis(own.url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        process = docora.start("retry-all-failed", "--json", env={"REDIS_URL": proxy.url})
        push.wait()
        own.stop()
        push.release()
        result = finish(process)
    document = refuses(result, "redis", "broke the connection")
    assert docora.statuses() == {"failed": 6, "pending_snapshot": 4}
    assert document["data"]["queued"] == 4
    assert document["data"]["failed"] == 1
