"""A bulk retry that loses a server in the middle, or is stopped there, and what it has done."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.errors.checks import refuses
from tests.support.bulk_actions import RETRY
from tests.support.docora import Docora, Result, finish
from tests.support.own_servers import OwnRedis, refusing_writes
from tests.support.proxy import PUSH, Fault, Plan, Proxy, eventually
from tests.support.running_commands import PATIENT, progress_of, suspended


def hold_bulk(docora: Docora, proxy: Proxy, links: int) -> tuple[Any, Plan]:
    """A bulk retry in batches of ten, four of them done, the fifth reset but not pushed."""
    docora.add_links(links, apps=2)
    push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
    process = docora.start(
        *RETRY.command, "--json", env={"REDIS_URL": proxy.url, "DOCORA_OPS_CONNECT_TIMEOUT": "1"}
    )
    push.wait()
    eventually(lambda: docora.statuses().get("pending_snapshot") == 40, "four batches committed")
    return process, push


def tells_what_was_done(docora: Docora, document: Any, result: Result, done: int) -> None:
    data = document["data"]
    assert (data["total"], data["completed"]) == (200, done)
    assert data["put_to_work"] == data["queued"] + data["already_queued"] == done
    assert data["operation_id"].startswith("bulk_")
    assert f"Stopped after {done} of 200 links." in result.stderr
    assert docora.statuses() == {"failed": 200 - done, "pending_snapshot": done}


def rest_is_finished(docora: Docora, already_queued: int) -> None:
    """By the same command again."""
    left = docora.statuses()["failed"]
    rest = docora.run("retry-all-failed", "--json")
    assert rest.code == 0, rest
    assert rest.data["total"] == rest.data["put_to_work"] == left
    assert rest.data["already_queued"] == already_queued
    assert docora.statuses() == {"pending_snapshot": 200}
    assert len(docora.waiting()) == 200
    docora.assert_sound()


@refusing_writes
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
        result = docora.run(*RETRY.command, "--json", env={"REDIS_URL": proxy.url})
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
    assert document["data"]["not_queued"] == 1


# Rows are locked for a short time only


@pytest.mark.slow
def test_a_redis_that_hangs_has_a_few_seconds_while_rows_are_locked(docora: Docora) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REQUEST, number=5)
        # It is never released, and any other answer of Redis may take 90 seconds.
        result = docora.run(*RETRY.command, "--json", env={**PATIENT, "REDIS_URL": proxy.url})
        push.wait()
    document = refuses(result, "redis", "did not answer in time")
    assert "it has 4 s while links are locked" in document["hint"]
    done = docora.statuses()["pending_snapshot"]
    assert done in {40, 50}, "the sixth batch was in flight as well"
    tells_what_was_done(docora, document, result, done)
    rest_is_finished(docora, already_queued=0)


@pytest.mark.slow
def test_a_command_that_is_stopped_with_rows_locked_loses_them_and_ends_with_a_sentence(
    docora: Docora,
) -> None:
    docora.add_links(200, apps=2)
    with Proxy.before_redis(docora.redis_url) as proxy:
        push = proxy.plan(PUSH, Fault.HOLD_REPLY, number=5)
        process = docora.start(*RETRY.command, "--json", env={**PATIENT, "REDIS_URL": proxy.url})
        push.wait()
        with suspended(process):
            push.release()
            # Waits for the rows of the fifth batch, a minute at most.
            docora.connection.execute("SELECT 1 FROM app_repositories FOR UPDATE")
        result = finish(process)
    document = refuses(result, "postgres", "idle-in-transaction timeout")
    done = docora.statuses()["pending_snapshot"]
    tells_what_was_done(docora, document, result, done)
    docora.assert_sound()
    # Their jobs were pushed, and never committed.
    rest_is_finished(docora, already_queued=len(docora.waiting()) - done)
