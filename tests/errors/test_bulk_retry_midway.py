"""A bulk retry that loses a server in the middle, or is stopped there, and what it has done."""

from typing import Any

import pytest

from tests.errors.checks import refuses
from tests.support.bulk_actions import RETRY
from tests.support.docora import Docora, Result
from tests.support.proxy import PUSH, Fault, Proxy
from tests.support.running_commands import PATIENT, progress_of


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
